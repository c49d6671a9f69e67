"""The models of kyolo, YOLO detectors: the two least of each generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, row


def names() -> list[str]:
    """Return the models of width n, t and s: the larger ones are of the same operators and cannot be built small."""
    import kyolo

    return [name for name in kyolo.list_models() if name[-1] in "nts"]


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    import kyolo

    build: Callable[..., Any] = getattr(kyolo, name)
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    return row("kyolo", name, format, *fitting(constructor(name), {"nc": CLASSES}))

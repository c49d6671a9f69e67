"""The models of kimm, Keras image models: the least of each family that it registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, least, row


def names() -> list[str]:
    """Return the least model of each family; the larger ones are of the same operators and cannot be built small."""
    import kimm

    return least(kimm.list_models())


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    import kimm

    build: Callable[..., Any] = getattr(kimm.models, name)
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    return row("kimm", name, format, *fitting(constructor(name), {"weights": None, "classes": CLASSES}))

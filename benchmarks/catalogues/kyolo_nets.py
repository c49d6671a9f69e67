"""The models of kyolo, YOLO detectors: the two least of each generation."""

from __future__ import annotations

from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, row, seeded


def names() -> list[str]:
    """Return the models of width n, t and s: the larger ones are of the same operators and cannot be built small."""
    import kyolo

    return [name for name in kyolo.list_models() if name[-1] in "nts"]


def net(name: str, given: dict[str, Any]) -> Any:
    """Return a model with random weights."""
    import kyolo

    return seeded(getattr(kyolo, name), given)


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    import kyolo

    return row("kyolo", name, format, *fitting(getattr(kyolo, name), {"nc": CLASSES}))

"""The models of kimm, Keras image models: the least of each family that it registers."""

from __future__ import annotations

from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, least, row, seeded


def names() -> list[str]:
    """Return the least model of each family; the larger ones are of the same operators and cannot be built small."""
    import kimm

    return least(kimm.list_models())


def net(name: str, given: dict[str, Any]) -> Any:
    """Return a model with random weights."""
    import kimm

    return seeded(getattr(kimm.models, name), given)


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    import kimm

    return row("kimm", name, format, *fitting(getattr(kimm.models, name), {"weights": None, "classes": CLASSES}))

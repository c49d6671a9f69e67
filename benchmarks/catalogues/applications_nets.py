"""The models of ``keras.applications``: the least of each family."""

from __future__ import annotations

import inspect
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, least, row, seeded


def names() -> list[str]:
    """Return the least model of each family; the larger ones are of the same operators and cannot be built small."""
    import keras

    return least(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))


def net(name: str, given: dict[str, Any]) -> Any:
    """Return a model with random weights."""
    import keras

    return seeded(getattr(keras.applications, name), given)


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    import keras

    return row("applications", name, format, *fitting(getattr(keras.applications, name), {"weights": None, "classes": CLASSES}))

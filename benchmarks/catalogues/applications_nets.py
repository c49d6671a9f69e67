"""The models of ``keras.applications``: the least of each family."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, least, row


def names() -> list[str]:
    """Return the least model of each family; the larger ones are of the same operators and cannot be built small."""
    import keras

    return least(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    import keras

    build: Callable[..., Any] = getattr(keras.applications, name)
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    return row("applications", name, format, *fitting(constructor(name), {"weights": None, "classes": CLASSES}))

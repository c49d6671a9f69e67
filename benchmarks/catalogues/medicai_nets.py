"""The models of medicai: classifiers of two dimensions, and segmentation models on the least of their encoders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, least, row

ENCODER = {"encoder_name": "resnet18", "encoder_depth": 4}


def classes() -> dict[str, Any]:
    """Return every model class, by its name."""
    import keras
    from medicai import models

    found = {name: getattr(models, name) for name in dir(models) if name[0].isupper()}
    return {name: value for name, value in found.items() if inspect.isclass(value) and issubclass(value, keras.Model)}


def names() -> list[str]:
    """Return the least model of each family."""
    return least(classes())


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    build: Callable[..., Any] = classes()[name]
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a model on images of 64 pixels or more."""
    build = constructor(name)
    taken = inspect.signature(build.__init__).parameters
    encoder = ENCODER if "encoder_name" in taken and taken["encoder_name"].default is None else {}
    given = {k: v for k, v in {**encoder, "num_classes": CLASSES}.items() if k in taken}
    return row("medicai", name, format, *fitting(build, given))

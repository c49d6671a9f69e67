"""The models of keras-cv-attention-models: each family's own function, with one block a stage."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, least, row


def functions() -> dict[str, Any]:
    """Return what builds a model of each module, by its name: functions that take ``pretrained`` weights."""
    import tensorflow

    assert tensorflow.keras.layers  # the package takes what TensorFlow has at hand: Keras 3, once that is loaded
    import keras_cv_attention_models as package

    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # the package asks for the old one, and so would all processes after it
    return {
        name: value
        for family in vars(package).values()
        if inspect.ismodule(family)
        for name, value in vars(family).items()
        if inspect.isfunction(value) and name[0].isupper() and "pretrained" in inspect.signature(value).parameters
    }


def names() -> list[str]:
    """Return the least model of each family."""
    return least(functions())


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    build: Callable[..., Any] = functions()[name]
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes."""
    return row("kecam", name, format, *fitting(constructor(name), {"pretrained": None, "num_classes": CLASSES}))

"""The models of zeromodels: backbones and tasks of 130 families of images, texts and sounds, made small by their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import fitting, row


def classes() -> dict[str, Any]:
    """Return every model class of every family, by its name."""
    import keras
    from zeromodels import models

    return {
        name: value
        for family in vars(models).values()
        if inspect.ismodule(family)
        for name in getattr(family, "__all__", ())
        if inspect.isclass(value := getattr(family, name)) and issubclass(value, keras.Model)
    }


def names() -> list[str]:
    """Return the names of all model classes."""
    return sorted(classes())


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    build: Callable[..., Any] = classes()[name]
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a small model; one with a table of segments has two."""
    build: Any = constructor(name)
    segments = {"type_vocab_size": 2} if hasattr(build.config_class, "type_vocab_size") else {}
    return row("zeromodels", name, format, *fitting(build, segments))

"""The models of keras-unet-collection, each plain and in its other forms of pooling, unpooling and activation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, row

#: What the models of the collection ask for and give no default.
ASKED: dict[str, Any] = {
    "input_size": (64, 64, 3), "filter_num": [16, 32, 64], "filter_num_down": [16, 32, 64], "n_labels": CLASSES,
    "dilation_num": [1, 3], "filter_num_begin": 16, "depth": 3, "stack_num_down": 2, "stack_num_up": 2, "patch_size": (2, 2),
    "num_heads": [2, 2, 2], "window_size": [4, 4, 4], "num_mlp": 64, "embed_dim": 32, "num_transformer": 2,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "": {},
    ", BatchNorm": {"batch_norm": True, "activation": "GELU"},
    ", strides": {"pool": False, "unpool": False, "activation": "LeakyReLU"},
    ", bilinear": {"pool": "ave", "unpool": "bilinear", "activation": "PReLU"},
    ", nearest": {"unpool": "nearest", "activation": "Snake", "output_activation": "Sigmoid"},
}


def functions() -> dict[str, Any]:
    """Return the collection's models, by their names."""
    from keras_unet_collection import models

    return {name: value for name, value in vars(models).items() if inspect.isfunction(value) and name.endswith("_2d")}


def names() -> list[str]:
    """Return every model in every form whose arguments it has."""
    return [
        f"{name}{form}"
        for name, value in sorted(functions().items())
        for form, options in FORMS.items()
        if set(options) <= set(inspect.signature(value).parameters)
    ]


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    build: Callable[..., Any] = functions()[name.partition(",")[0]]
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a model of three levels on images of 64 pixels."""
    _, comma, form = name.partition(",")
    build = constructor(name)
    taken = inspect.signature(build).parameters
    given = {k: v for k, v in ASKED.items() if k in taken} | FORMS[comma + form]
    return row("unet_collection", name, format, *fitting(build, given | ({"backbone": None} if "backbone" in taken else {})))

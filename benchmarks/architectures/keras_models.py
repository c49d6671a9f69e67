"""Keras 3: the models of ``keras.applications`` with random weights, a U-Net and a transformer."""

from __future__ import annotations

from typing import Any

import keras


def application(name: str, size: int, **options: Any) -> Any:
    """Return a model of ``keras.applications`` for 10 classes."""
    keras.utils.set_random_seed(0)
    return getattr(keras.applications, name)(weights=None, classes=10, input_shape=(size, size, 3), **options)

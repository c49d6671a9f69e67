"""``tf_keras`` (Keras 2): the models of ``tf_keras.applications`` with random weights."""

from __future__ import annotations

from typing import Any

import tf_keras


def application(name: str, size: int, **options: Any) -> Any:
    """Return a model of ``tf_keras.applications`` for 10 classes."""
    tf_keras.utils.set_random_seed(0)
    return getattr(tf_keras.applications, name)(weights=None, classes=10, input_shape=(size, size, 3), **options)

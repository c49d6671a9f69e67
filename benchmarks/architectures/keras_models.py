"""Keras 3: the models of ``keras.applications`` with random weights, a U-Net and a transformer."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def application(name: str, size: int, **options: Any) -> Any:
    """Return a model of ``keras.applications`` for 10 classes."""
    keras.utils.set_random_seed(0)
    return getattr(keras.applications, name)(weights=None, classes=10, input_shape=(size, size, 3), **options)


def unet(size: int = 64, width: int = 16, classes: int = 3) -> Any:
    """Return a U-Net of four levels: images to a map of class scores."""
    keras.utils.set_random_seed(0)

    def double(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)))
        return x

    inputs = keras.Input((size, size, 3))
    x, skips = double(inputs, width), []
    for level in (1, 2, 3):
        skips.append(x)
        x = double(layers.MaxPooling2D()(x), width * 2**level)
    for level in (2, 1, 0):
        up = layers.Conv2DTranspose(width * 2**level, 2, strides=2)(x)
        x = double(layers.Concatenate()([skips[level], up]), width * 2**level)
    return keras.Model(inputs, layers.Conv2D(classes, 1)(x), name="unet")


def transformer(vocabulary: int = 1000, length: int = 32, width: int = 64, depth: int = 2, classes: int = 10) -> Any:
    """Return a text classifier with ``MultiHeadAttention``: token ids to logits."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((length,), dtype="int32")
    positions = layers.Embedding(length, width)(keras.ops.arange(length))
    x = layers.Embedding(vocabulary, width)(ids) + positions
    for _ in range(depth):
        attended = layers.MultiHeadAttention(4, width // 4)(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, attended]))
        y = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(x))
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, y]))
    return keras.Model(ids, layers.Dense(classes)(layers.GlobalAveragePooling1D()(x)), name="transformer")

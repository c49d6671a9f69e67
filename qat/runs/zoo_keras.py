"""Example models in Keras 3: MobileNetV2 (Sandler et al. 2018) in three sizes, those of :mod:`qat.runs.zoo_torch`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

#: (expansion, channels, repeats, stride) of each stage.
Stages = tuple[tuple[int, int, int, int], ...]
TINY: Stages = ((1, 16, 1, 1), (4, 24, 2, 2))
SMALL: Stages = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 3, 2), (4, 64, 2, 1))
FULL: Stages = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _finish(x: Any, activation: bool) -> Any:
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU(6.0)(x) if activation else x


def _conv(x: Any, filters: int, kernel: int, stride: int = 1, activation: bool = True) -> Any:
    return _finish(layers.Conv2D(filters, kernel, stride, "same", use_bias=False)(x), activation)


def _inverted_residual(x: Any, filters: int, stride: int, expansion: int) -> Any:
    inputs = x.shape[-1]
    y = _conv(x, inputs * expansion, 1) if expansion != 1 else x
    y = _finish(layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(y), True)
    y = _conv(y, filters, 1, activation=False)
    return layers.Add()([x, y]) if stride == 1 and inputs == filters else y


def mobilenet(stages: Stages, shape: tuple[int, int, int], classes: int, stem: int, stem_stride: int, head: int) -> Any:
    """Return MobileNetV2 of given stages: images [batch, height, width, channels] to logits."""
    inputs = keras.Input(shape, name="image")
    x = _conv(inputs, stem, 3, stem_stride)
    for expansion, filters, repeats, stride in stages:
        for index in range(repeats):
            x = _inverted_residual(x, filters, stride if index == 0 else 1, expansion)
    x = layers.GlobalAveragePooling2D()(_conv(x, head, 1))
    return keras.Model(inputs, layers.Dense(classes, name="classifier")(x), name="mobilenet")


def mobilenet_tiny(channels: int = 1, classes: int = 10) -> Any:
    """For 8x8 images: the digits."""
    return mobilenet(TINY, (8, 8, channels), classes, stem=16, stem_stride=1, head=64)


def mobilenet_small(channels: int = 1, classes: int = 10) -> Any:
    """For 28x28 images: Fashion-MNIST."""
    return mobilenet(SMALL, (28, 28, channels), classes, stem=16, stem_stride=1, head=256)


def mobilenet_v2(size: int = 224, channels: int = 3, classes: int = 1000) -> Any:
    """MobileNetV2 1.0."""
    return mobilenet(FULL, (size, size, channels), classes, stem=32, stem_stride=2, head=1280)

"""Example models in Keras 3: MobileNetV2 and SSDLite (Sandler et al. 2018), those of :mod:`qat.runs.zoo_torch`."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers

from qat.trainers.detection_grid import LOGITS, OFFSETS

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


def _stages(x: Any, stages: Stages) -> Any:
    for expansion, filters, repeats, stride in stages:
        for index in range(repeats):
            x = _inverted_residual(x, filters, stride if index == 0 else 1, expansion)
    return x


def mobilenet(stages: Stages, shape: tuple[int, int, int], classes: int, stem: int, stem_stride: int, head: int) -> Any:
    """Return MobileNetV2 of given stages: images [batch, height, width, channels] to logits."""
    inputs = keras.Input(shape, name="image")
    x = _stages(_conv(inputs, stem, 3, stem_stride), stages)
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


#: The stages of a detector's body up to a map of stride 8, and from there to one of stride 16.
FINE: Stages = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 48, 3, 2))
COARSE: Stages = ((4, 96, 2, 2),)
#: The share of the cells that an untrained detector takes for objects (Lin et al. 2017, "Focal Loss", section 4.1).
PRIOR = 0.01


def _head(x: Any, outputs: int, bias: float, name: str) -> Any:
    """Return numbers for each cell of a map, by a depthwise and a pointwise convolution: [batch, cells, outputs]."""
    y = _finish(layers.DepthwiseConv2D(3, 1, "same", use_bias=False)(x), True)
    kernel = keras.initializers.RandomNormal(stddev=0.01)
    constant = keras.initializers.Constant(bias)
    y = layers.Conv2D(outputs, 1, kernel_initializer=kernel, bias_initializer=constant, name=name)(y)
    return layers.Reshape((-1, outputs))(y)


def ssdlite(size: int = 64, channels: int = 1, classes: int = 10) -> Any:
    """Return a one-stage detector without anchors: images to offsets and logits for each cell.

    A MobileNetV2 body gives maps of strides 8 and 16, and each map has a head for boxes and one for classes.
    :mod:`qat.trainers.detection_grid` says what the numbers mean, and makes boxes of them.
    """
    image = keras.Input((size, size, channels), name="image")
    fine = _stages(_conv(image, 16, 3, 2), FINE)
    maps = {8: fine, 16: _stages(fine, COARSE)}
    heads = {OFFSETS: (4, 0.0), LOGITS: (classes, -math.log(1 / PRIOR - 1))}
    outputs = {
        name: layers.Concatenate(1, name=name)([_head(x, count, bias, f"{name}_{stride}") for stride, x in maps.items()])
        for name, (count, bias) in heads.items()
    }
    return keras.Model(image, outputs, name="ssdlite")

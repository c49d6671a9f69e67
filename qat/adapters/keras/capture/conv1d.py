"""Signals of one dimension, (batch, length, channels), written as images of one row: the runtimes' kernels take images.

A layer that has a counterpart on images reads its input with an axis of size 1 before the length, and gives it up after. Two that
follow each other keep the axis between them, so that a convolution meets its BatchNorm and its activation. Parameters keep the
shapes that the user gave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from qat.graph.graph import Op

from .builder import Builder, Rule, Shape
from .layer_calls import Call

#: The attributes of a layer that get a first entry of 1, for the axis of size 1.
_WINDOWS = ("kernel_size", "strides", "dilation_rate", "pool_size")

#: Layers of any rank that follow a signal's operator on its image.
FOLLOWERS = ("BatchNormalization", "ReLU", "Activation", "Add", "Multiply", "Concatenate", "Average")


class _OnImages:
    """A layer of signals, with the attributes that it would have as one of images."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, name)
        if name in _WINDOWS:
            return (1, *value)
        if name == "axis":
            axis = int(value[0] if isinstance(value, (list, tuple)) else value) % 3
            return axis + (axis >= 1)
        if name == "output_padding" and value is not None:
            return (0, *(value if isinstance(value, (list, tuple)) else (value,)))
        # Numbers are those of ZeroPadding1D: other layers say "same", "valid" or "causal".
        return ((0, 0), value) if name == "padding" and not isinstance(value, str) else value


def on_images(rule: Rule) -> Rule:
    """Return the rule of a layer of signals: the rule of images, on images of one row."""

    def made(b: Builder, c: Call) -> str | None:
        specs = [b.specs[name] for name in c.inputs]
        if any(len(s.shape) != 3 or None in s.shape[1:] or s.dtype != "float32" for s in specs):
            return None
        is_signal = len(c.shape) == 3
        output = keras.KerasTensor(_image_shape(c.shape), c.output.dtype) if is_signal else c.output
        inputs = tuple(_image(b, name, c.path) for name in c.inputs)
        name = rule(b, replace(c, layer=_OnImages(c.layer), inputs=inputs, output=output))
        return _signal(b, name, c.shape, c.path) if name is not None and is_signal else name

    return made


def follows(b: Builder, kind: str, inputs: Sequence[str]) -> bool:
    """Whether a layer of any rank is better written on images: one of its inputs is an image that gave up its axis."""
    return kind in FOLLOWERS and any(name in b.images for name in inputs)


def as_image_weight(kind: str, value: tf.Tensor) -> tf.Tensor:
    """Return the weight (length, ...) of a convolution of signals as (1, length, ...), and any other as it is."""
    return tf.expand_dims(value, 0) if "conv" in kind and len(value.shape) == 3 else value


def without_unread_borders(ops: Sequence[Op], outputs: Sequence[str], borders: set[str]) -> tuple[Op, ...]:
    """Return the operators without those of ``borders`` that no operator reads."""
    read = {*outputs, *(name for op in ops for name in op.inputs)}
    return tuple(op for op in ops if op.name not in borders or op.output in read)


def _image_shape(shape: Shape) -> Shape:
    batch, *rest = shape
    return (batch, 1, *rest)


def _image(b: Builder, name: str, path: str) -> str:
    if name not in b.images:
        b.images[name] = _border(b, name, _image_shape(b.specs[name].shape), path)
    return b.images[name]


def _signal(b: Builder, image: str, shape: Shape, path: str) -> str:
    name = _border(b, image, shape, path)
    b.images[name] = image
    return name


def _border(b: Builder, source: str, shape: Shape, path: str) -> str:
    name = b.reshape(source, shape, f"{path}_row", path)
    b.borders.add(name)
    return name

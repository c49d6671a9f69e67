"""Signals of one dimension, (batch, length, channels), written as images of one row: the runtimes' kernels take images.

A layer that has a counterpart on images reads its input with an axis of size 1 before the length, and gives it up after. Two that
follow each other keep the axis between them, so that a convolution meets its BatchNorm and its activation. Parameters keep the
shapes that the user gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from qat.graph.graph import Op

if TYPE_CHECKING:
    from .trace import Builder

Rule = Callable[..., "str | None"]

#: The attributes of a layer that get a first entry for the axis of size 1, and that entry.
_WINDOWS: Mapping[str, Any] = {"kernel_size": 1, "strides": 1, "dilation_rate": 1, "pool_size": 1}

#: Layers of any rank that follow a signal's operator on its image.
FOLLOWERS = ("BatchNormalization", "ReLU", "Activation", "Add", "Multiply", "Concatenate", "Average")


class _OnImages:
    """A layer of signals, with the attributes that it would have as one of images."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, name)
        if name in _WINDOWS:
            return (_WINDOWS[name], *value)
        if name == "axis":
            axis = int(value[0] if isinstance(value, (list, tuple)) else value) % 3
            return axis + (axis >= 1)
        if name == "output_padding" and value is not None:
            return (0, *(value if isinstance(value, (list, tuple)) else (value,)))
        # Of ZeroPadding1D, whose other layers say "same", "valid" or "causal".
        return ((0, 0), value) if name == "padding" and not isinstance(value, str) else value


def on_images(rule: Rule) -> Rule:
    """Return the rule of a layer of signals: that of images, on images of one row."""

    def made(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
        shapes = [b.specs[name].shape for name in inputs]
        if any(len(shape) != 3 or None in shape[1:] for shape in shapes) or any(b.specs[n].dtype != "float32" for n in inputs):
            return None
        as_image = len(output.shape) == 3
        result = keras.KerasTensor(_image_shape(output.shape), output.dtype) if as_image else output
        name = rule(b, _OnImages(layer), [_image(b, name, path) for name in inputs], result, path)
        return name if name is None or not as_image else _signal(b, name, tuple(output.shape), path)

    return made


def follows(b: Builder, kind: str, inputs: list[str]) -> bool:
    """Whether a layer of any rank is better written on images: one of its inputs is an image that gave up its axis."""
    return kind in FOLLOWERS and any(name in b.images for name in inputs)


def as_image_weight(kind: str, value: Any) -> Any:
    """Return a convolution's weight of rows, (length, ...), as one of images, (1, length, ...); any other as it is."""
    return tf.expand_dims(value, 0) if "conv" in kind and len(value.shape) == 3 else value


def without_idle(ops: list[Op], outputs: tuple[str, ...], borders: set[str]) -> tuple[Op, ...]:
    """Return the operators without those between image and signal that nobody reads."""
    read = {*outputs, *(name for op in ops for name in op.inputs)}
    return tuple(op for op in ops if op.name not in borders or op.output in read)


def _image_shape(shape: Any) -> tuple[Any, ...]:
    batch, *rest = shape
    return (batch, 1, *rest)


def _image(b: Builder, name: str, path: str) -> str:
    if name not in b.images:
        b.images[name] = _border(b, name, _image_shape(b.specs[name].shape), path)
    return b.images[name]


def _signal(b: Builder, image: str, shape: tuple[Any, ...], path: str) -> str:
    name = _border(b, image, shape, path)
    b.images[name] = image
    return name


def _border(b: Builder, source: str, shape: tuple[Any, ...], path: str) -> str:
    name = b.reshape(source, shape, f"{path}_row", path)
    b.borders.add(name)
    return name

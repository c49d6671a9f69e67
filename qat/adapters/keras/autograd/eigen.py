"""Convolutions and their gradients in the forms that TensorFlow's own kernels have.

Its gradients of filters with groups or dilations are oneDNN's, and so are depthwise filters whose strides differ. TensorFlow uses
oneDNN by itself on processors with VNNI, BF16 or AMX only. Elsewhere the kernels are Eigen's, which refuse all three.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow import Tensor

#: The elements before and after each axis of an image.
Sides: TypeAlias = tuple[tuple[int, int], ...]
#: Of a convolution, as TensorFlow's operators take them.
Options: TypeAlias = Mapping[str, Any]


@functools.cache
def has_every_gradient() -> bool:
    """Return whether this TensorFlow has the gradients of filters with groups, and then all else that oneDNN has."""
    with tf.init_scope(), tf.device("CPU"):
        x = tf.zeros((1, 1, 1, 2))
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=[1, 1, 1, 2], out_backprop=x, strides=[1, 1, 1, 1], padding="VALID"
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


def convolution(x: Tensor, w: Tensor, options: Options) -> Tensor:
    """Return a convolution, group by group: the graph optimizer would fuse one in groups with its bias, which has no kernel."""
    count = x.shape[-1] // w.shape[-2]
    parts = zip(tf.split(x, count, -1), tf.split(w, count, -1), strict=True)
    return tf.concat([tf.raw_ops.Conv2D(input=part, filter=filters, **options) for part, filters in parts], -1)


def input_gradient(x: Tensor, w: Tensor, grad: Tensor, options: Options, sides: Sides, dilations: Sequence[int]) -> Tensor:
    """Return the gradient with respect to the input ``x`` of a convolution, whose padding is ``sides``."""
    found = []
    for part, filters, g in _groups(x, w, grad):
        (part, g, plain), paddings = _without_dilations(part, g, options, sides, dilations)
        gx = tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(part), filter=filters, out_backprop=g, **plain)
        found.append(gx if paddings is None else tf.batch_to_space(gx, dilations, paddings))
    return tf.ensure_shape(tf.concat(found, -1), x.shape)


def weight_gradient(x: Tensor, w: Tensor, grad: Tensor, options: Options, sides: Sides, dilations: Sequence[int]) -> Tensor:
    """Return the gradient with respect to the filter ``w`` of a convolution, whose padding is ``sides``."""
    found = []
    for part, filters, g in _groups(x, w, grad):
        (part, g, plain), _ = _without_dilations(part, g, options, sides, dilations)
        found.append(tf.raw_ops.Conv2DBackpropFilter(input=part, filter_sizes=filters.shape, out_backprop=g, **plain))
    return tf.concat(found, -1)


def _groups(x: Tensor, w: Tensor, grad: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the input, the filter and the output's gradient of each group."""
    count = x.shape[-1] // w.shape[-2]
    return list(zip(tf.split(x, count, -1), tf.split(w, count, -1), tf.split(grad, count, -1), strict=True))


def _without_dilations(
    x: Tensor, grad: Tensor, options: Options, sides: Sides, dilations: Sequence[int]
) -> tuple[tuple[Tensor, Tensor, Options], Tensor | None]:
    """Return input, gradient and options for a filter without dilations, and what the images were padded with to come apart.

    The places that a dilated filter reads together become images of their own.
    """
    if max(dilations) == 1:
        return (x, grad, options), None
    paddings, crops = tf.required_space_to_batch_paddings(tf.shape(x)[1:3], dilations, sides)
    apart, grad = tf.space_to_batch(x, dilations, paddings), tf.space_to_batch(grad, dilations, crops)
    return (apart, grad, {"strides": [1, 1, 1, 1], "padding": "VALID"}), paddings


def depthwise(x: Tensor, w: Tensor, strides: Sequence[int]) -> Tensor:
    """Return a depthwise convolution without padding, with strides of the rows and of the columns.

    One row of windows has any stride. Where there are more, those of the greatest common stride hold all that are asked for.
    """
    rows, columns = strides
    rows, columns = (columns if x.shape[1] == w.shape[0] else rows), (rows if x.shape[2] == w.shape[1] else columns)
    step = math.gcd(rows, columns)
    y = tf.nn.depthwise_conv2d(x, w, [1, step, step, 1], "VALID")
    return y if rows == columns else y[:, :: rows // step, :: columns // step]

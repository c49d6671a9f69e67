"""Linear operators on the grid: one node from the float weight and bias to the output's integers.

The formulas and their sources are those of :mod:`qat.adapters.torch.autograd.linear`: the weight's own scale cancels from its
gradient, and limits are read off the rounded output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.graph.padding import same_padding

from . import eigen
from .functions import Limits, apply_clip_mask, rounded

_SMALLEST_SCALE = np.float32(np.finfo(np.float32).tiny * 2.0**40)

#: TensorFlow's word for a padding, ``SAME`` or ``VALID``, or its elements before and after each axis.
Padding: TypeAlias = str | tuple[tuple[int, int], tuple[int, int]]


def weight_scale(
    weight: Tensor,
    floor: Tensor | None,
    qmax: Tensor,
    per_channel: bool,
    axes: Sequence[int],
) -> Tensor:
    """Return each output channel's scale, of shape (channels,), or one of shape (1,).

    ``floor`` is the smallest scale of each channel that its bias allows, ``axes`` are all but those of the channels. See
    :func:`qat.arithmetic.grid.weight_scale`.
    """
    reduced = axes if per_channel else None
    peak = tf.maximum(tf.reduce_max(weight, reduced), -tf.reduce_min(weight, reduced))
    scale = tf.maximum(tf.reshape(peak, [-1]) / qmax, _SMALLEST_SCALE)
    if floor is not None:
        scale = tf.maximum(scale, floor if per_channel else tf.reduce_max(floor))
    return tf.stop_gradient(scale)


#: Shows unrounded grid values to the range tracker and returns them.
Observe = Callable[[Tensor], Tensor]


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shape: tuple[int, ...],
    scales: tuple[Tensor, Tensor],
    limits: Limits,
    operator: Operator,
    observe: Observe | None,
) -> Tensor:
    """Return ``clamp(round((op(x, w_int) + b_int) * multiplier), *limits)`` from the float weight and bias, in one node.

    ``shape`` lays the channels' scales along the weight's axes; ``scales`` are the input's and the output's.
    """
    input_scale, output_scale = scales

    @tf.custom_gradient
    def node(x: Tensor, weight: Tensor, *bias: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        bias_scale = scale * input_scale
        w_int = tf.math.rint(weight / tf.reshape(scale, shape))
        acc = operator.forward(x, w_int)
        if bias:
            acc = tf.nn.bias_add(acc, tf.math.rint(bias[0] / bias_scale))
        v = acc * (bias_scale / output_scale)
        if observe is not None:
            v = observe(v)
        y = rounded(v, limits)

        def backward(grad: Tensor) -> tuple[Tensor, ...]:
            grad = apply_clip_mask(grad, y, limits)
            ratio = input_scale / output_scale
            with tf.control_dependencies([grad]):  # no sooner, see apply_clip_mask
                w_real = w_int * tf.reshape(scale * ratio, shape)
            gx = operator.input_gradient(x, w_real, grad)
            gw = operator.weight_gradient(x, w_int, grad) * ratio
            if not bias:
                return gx, gw
            return gx, gw, tf.reduce_sum(grad, list(range(len(grad.shape) - 1))) / output_scale

        return y, backward

    return node(x, weight) if bias is None else node(x, weight, bias)


class Operator:
    """A linear operator and its two gradients."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply it."""
        raise NotImplementedError

    def input_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        raise NotImplementedError

    def weight_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weight."""
        raise NotImplementedError


class Convolution(Operator):
    """conv2d, or the depthwise one. ``padding`` is ``SAME``, ``VALID`` or explicit numbers."""

    def __init__(self, strides: tuple[int, int], padding: Padding, dilations: tuple[int, int], depthwise: bool) -> None:
        self._depthwise, self._dilations = depthwise, dilations
        # TensorFlow's CPU kernels of depthwise filters refuse dilations or, in gradients, ignore them.
        self._holes, dilations = (dilations, (1, 1)) if depthwise else ((1, 1), dilations)
        self._before: list[tuple[int, int]] | None = None
        word, explicit = padding, []
        if not isinstance(padding, str) and max(dilations) > 1:
            # TensorFlow's CPU kernels have gradients of dilated filters only where the padding is a word.
            self._before, word = [(0, 0), *padding, (0, 0)], "VALID"
        elif not isinstance(padding, str):
            word, explicit = "EXPLICIT", [0, 0, *padding[0], *padding[1], 0, 0]
        self._options: dict[str, Any] = {
            "strides": [1, *strides, 1],
            "padding": word,
            "explicit_paddings": explicit,
            "dilations": [1, *dilations, 1],
        }

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply it."""
        own = not self._depthwise and self._in_parts(x, w)
        return tf.custom_gradient(self._with_gradients)(x, w) if own else self._apply(x, w)

    def _apply(self, x: Tensor, w: Tensor) -> Tensor:
        in_parts, padded, spread = self._in_parts(x, w), self._padded(x), self._spread(w)
        if self._depthwise and in_parts:
            around = self._sides(x.shape[1:3], self._windows(w)) or ((0, 0), (0, 0))
            return eigen.depthwise(tf.pad(x, [(0, 0), *around, (0, 0)]), spread, self._options["strides"][1:3])
        if self._depthwise:
            return tf.raw_ops.DepthwiseConv2dNative(input=padded, filter=spread, **self._options)
        return (eigen.convolution if in_parts else _convolution)(padded, spread, self._options)

    def _with_gradients(self, x: Tensor, w: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Apply it where its gradients are asked of the result: in float."""
        return self._apply(x, w), lambda grad: (self.input_gradient(x, w, grad), self.weight_gradient(x, w, grad))

    def input_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        if self._in_parts(x, w):
            return self._derived(x, w, grad, 0) if self._depthwise else eigen.input_gradient(x, w, grad, *self._parts(x, w))
        ops = tf.raw_ops
        backward = ops.DepthwiseConv2dNativeBackpropInput if self._depthwise else ops.Conv2DBackpropInput
        found = backward(input_sizes=tf.shape(self._padded(x)), filter=self._spread(w), out_backprop=grad, **self._options)
        return found if self._before is None else tf.slice(found, [first for first, _ in self._before], tf.shape(x))

    def weight_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weight."""
        if self._in_parts(x, w):
            return self._derived(x, w, grad, 1) if self._depthwise else eigen.weight_gradient(x, w, grad, *self._parts(x, w))
        ops = tf.raw_ops
        backward = ops.DepthwiseConv2dNativeBackpropFilter if self._depthwise else ops.Conv2DBackpropFilter
        spread, x, options = self._spread(w), self._padded(x), self._options
        around = self._around(x.shape[1:3], spread.shape[:2]) if self._depthwise else None
        if around is not None:
            x, options = tf.pad(x, [(0, 0), *around, (0, 0)]), options | {"padding": "VALID", "explicit_paddings": []}
        found = backward(input=x, filter_sizes=tf.shape(spread), out_backprop=grad, **options)
        return found if self._holes == (1, 1) else found[:: self._holes[0], :: self._holes[1]]

    def _in_parts(self, x: Tensor, w: Tensor) -> bool:
        """Return whether TensorFlow lacks the operator, or its gradients, as one."""
        rows, columns = self._options["strides"][1:3]
        plain = rows == columns if self._depthwise else max(self._dilations) == 1 and x.shape[-1] == w.shape[-2]
        return not plain and not eigen.has_every_gradient()

    def _derived(self, x: Tensor, w: Tensor, grad: Tensor, index: int) -> Tensor:
        """Return the gradient with respect to one of ``x`` and ``w``, as TensorFlow derives it."""
        with tf.GradientTape() as tape:
            tape.watch((x, w)[index])
            y = self._apply(x, w)
        return tape.gradient(y, (x, w)[index], grad)

    def _parts(self, x: Tensor, w: Tensor) -> tuple[dict[str, Any], eigen.Sides, Sequence[int]]:
        """Return the options, the padding and the dilations of the operator in parts. A dilated filter has strides of 1."""
        sides = tuple(self._before[1:3]) if self._before is not None else self._sides(x.shape[1:3], self._windows(w))
        return self._options, sides or ((0, 0), (0, 0)), self._dilations

    def _windows(self, w: Tensor) -> list[int]:
        return [(k - 1) * d + 1 for k, d in zip(w.shape[:2], self._dilations, strict=True)]

    def _sides(self, sizes: Sequence[int | None], windows: Sequence[int]) -> eigen.Sides | None:
        """Return the padding in numbers; None where it is none, or follows from a size that is not fixed."""
        strides, explicit = self._options["strides"][1:3], self._options["explicit_paddings"]
        if explicit:
            return (explicit[2], explicit[3]), (explicit[4], explicit[5])
        sizes = [1 if step == 1 else n for n, step in zip(sizes, strides, strict=True)]  # any is as good
        return None if self._options["padding"] == "VALID" else same_padding(sizes, windows, strides)

    def _around(self, sizes: Sequence[int | None], windows: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
        """Return the padding of images that are too small, with it, for oneDNN's quick kernel of a depthwise filter's gradient.

        Its other kernel takes ten times as long for 960 channels of 2x2. ``init_conf`` in oneDNN's
        ``jit_uni_dw_conv_kernel_utils.hpp`` has the least size.
        """
        strides, around = self._options["strides"][1:3], self._sides(sizes, windows)
        if around is None:
            return None
        least = [k + -before % step for k, step, (before, _) in zip(windows, strides, around, strict=True)]
        return around if any(size is not None and size < n for size, n in zip(sizes, least, strict=True)) else None

    def _padded(self, x: Tensor) -> Tensor:
        return x if self._before is None else tf.pad(x, self._before)

    def _spread(self, w: Tensor) -> Tensor:
        """Return a filter with zeros between its elements, in the place of dilations."""
        for axis, step in enumerate(self._holes):
            if step > 1:
                before, after = w.shape[:axis], w.shape[axis + 1 :]
                apart = tf.reshape(w, (*before, -1, 1, *after))
                apart = tf.pad(apart, [(0, step - 1) if i == axis + 1 else (0, 0) for i in range(len(apart.shape))])
                w = tf.reshape(apart, (*before, -1, *after))
                w = w[: 1 - step] if axis == 0 else w[:, : 1 - step]
        return w


def _convolution(x: Tensor, w: Tensor, options: eigen.Options) -> Tensor:
    return tf.raw_ops.Conv2D(input=x, filter=w, **options)


class Pointwise(Operator):
    """A convolution of 1x1 without strides and padding as products of matrices, which are faster, its gradients above all.

    For integers, whose sums are the same in any order.
    """

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply it."""
        return _as_images(tf.matmul(_as_rows(x), w[0, 0]), x)

    def input_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        return _as_images(tf.matmul(_as_rows(grad), w[0, 0], transpose_b=True), x)

    def weight_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weight."""
        return tf.matmul(_as_rows(x), _as_rows(grad), transpose_a=True)[tf.newaxis, tf.newaxis]


def _as_rows(x: Tensor) -> Tensor:
    """Return the values of each position as a row of a matrix."""
    return tf.reshape(x, [-1, x.shape[-1]])


def _as_images(rows: Tensor, x: Tensor) -> Tensor:
    """Return rows laid out as the positions of ``x``."""
    free = x.shape[:-1].as_list().count(None)
    positions = [-1 if n is None else n for n in x.shape[:-1]] if free < 2 else tf.unstack(tf.shape(x)[:-1])
    return tf.reshape(rows, [*positions, rows.shape[-1]])


class MatMul(Operator):
    """A dense layer on the last axis."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply it."""
        return tf.tensordot(x, w, [[-1], [0]]) if len(x.shape) > 2 else tf.matmul(x, w)

    def input_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        return tf.tensordot(grad, w, [[-1], [1]]) if len(x.shape) > 2 else tf.matmul(grad, w, transpose_b=True)

    def weight_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weight."""
        return tf.matmul(_as_rows(x), _as_rows(grad), transpose_a=True)

"""Integer-grid kernels: the forward pass is the runtime's arithmetic, the backward one elementwise pass.

The formulas and their sources are those of :mod:`qat.adapters.torch.autograd.functions`: limits read off the rounded output, the
weight's own scale cancelled from its gradient. TensorFlow's fake_quant operators are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qat.arithmetic import xnnpack
from qat.arithmetic.grid import BIAS_LIMIT

_SMALLEST_SCALE = np.float32(np.finfo(np.float32).tiny * 2.0**40)
Tensor = Any


def weight_scale(
    weight: Tensor, bias: Tensor | None, input_scale: Tensor, qmax: Tensor, per_channel: bool, axes: Any,
    bias_limit: float = BIAS_LIMIT,
) -> Tensor:  # fmt: skip
    """Return each output channel's scale, flat; see :func:`qat.arithmetic.grid.weight_scale`. ``axes`` are the others."""
    reduced = axes if per_channel else None
    peak = tf.maximum(tf.reduce_max(weight, reduced), -tf.reduce_min(weight, reduced))
    scale = tf.maximum(tf.reshape(peak, [-1]) / qmax, _SMALLEST_SCALE)
    if bias is not None:
        floor = tf.abs(bias) / (input_scale * np.float32(bias_limit))
        scale = tf.maximum(scale, floor if per_channel else tf.reduce_max(floor))
    return tf.stop_gradient(scale)


def _masked(grad: Tensor, y: Tensor, lo: Tensor | float, hi: Tensor) -> Tensor:
    # Relu6Grad is one pass where comparisons and a selection are four: [lo, hi] is laid on [0, 6], hi just above 6, so that
    # the integers strictly between the limits, and no others, fall strictly between 0 and 6.
    above = y if _is_zero(lo) else y - lo
    return tf.raw_ops.Relu6Grad(gradients=grad, features=above * (6.00001 / (hi - lo)))


def _is_zero(lo: Tensor | float) -> bool:
    """Whether a limit is the 0 of a fused ReLU, which is known while the graph is traced."""
    return isinstance(lo, float) and lo == 0.0


def _round_clamp(v: Tensor, lo: Tensor | float, hi: Tensor) -> Tensor:
    # Two passes in place that use the processor's vectors; the one of ClipByValue does not, and took four times as long.
    return tf.minimum(tf.maximum(tf.math.rint(v), lo), hi)


def round_clamp(v: Tensor, lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return ``clamp(round(v), lo, hi)``; the gradient passes where the result is strictly within the limits."""

    @tf.custom_gradient
    def node(v: Tensor) -> Any:
        y = _round_clamp(v, lo, hi)
        return y, lambda grad: _masked(grad, y, lo, hi)

    return node(v)


Observe = Callable[[Tensor], Tensor]


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shape: tuple[int, ...],
    scales: tuple[Tensor, Tensor],
    limits: tuple[Tensor | float, Tensor],
    operator: Operator,
    observe: Observe | None,
) -> Tensor:
    """Return ``clamp(round(op(x, w_int) + b_int) * multiplier), lo, hi)`` from the float weight and bias, in one node.

    ``shape`` lays the channels' scales along the weight's axes; ``scales`` are the input's and the output's.
    """
    input_scale, output_scale = scales
    lo, hi = limits

    @tf.custom_gradient
    def node(x: Tensor, weight: Tensor, *bias: Tensor) -> Any:
        bias_scale = scale * input_scale
        w_int = tf.math.rint(weight / tf.reshape(scale, shape))
        acc = operator.forward(x, w_int)
        if bias:
            acc = tf.nn.bias_add(acc, tf.math.rint(bias[0] / bias_scale))
        v = acc * (bias_scale / output_scale)
        if observe is not None:
            v = observe(v)
        y = _round_clamp(v, lo, hi)

        def backward(grad: Tensor) -> Any:
            grad = _masked(grad, y, lo, hi)
            ratio = input_scale / output_scale
            gx = operator.input_gradient(x, w_int * tf.reshape(scale * ratio, shape), grad)
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

    def __init__(self, strides: tuple[int, int], padding: Any, dilations: tuple[int, int], depthwise: bool) -> None:
        explicit = not isinstance(padding, str)
        # Of dilated filters TensorFlow's CPU kernels have gradients without numbers for the padding only.
        self._before = [(0, 0), *padding, (0, 0)] if explicit and max(dilations) > 1 else None
        if self._before is not None:
            explicit, padding = False, "VALID"
        self._options: dict[str, Any] = {
            "strides": [1, *strides, 1],
            "padding": "EXPLICIT" if explicit else padding,
            "explicit_paddings": [0, 0, *padding[0], *padding[1], 0, 0] if explicit else [],
            "dilations": [1, *dilations, 1],
        }
        self._depthwise = depthwise

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply it."""
        x = self._padded(x)
        if self._depthwise:
            return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=w, **self._options)
        return tf.raw_ops.Conv2D(input=x, filter=w, **self._options)

    def input_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        backward = (
            tf.raw_ops.DepthwiseConv2dNativeBackpropInput if self._depthwise else tf.raw_ops.Conv2DBackpropInput
        )  # fmt: skip
        found = backward(input_sizes=tf.shape(self._padded(x)), filter=w, out_backprop=grad, **self._options)
        return found if self._before is None else tf.slice(found, [first for first, _ in self._before], tf.shape(x))

    def weight_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weight."""
        backward = (
            tf.raw_ops.DepthwiseConv2dNativeBackpropFilter if self._depthwise else tf.raw_ops.Conv2DBackpropFilter
        )  # fmt: skip
        return backward(input=self._padded(x), filter_sizes=tf.shape(w), out_backprop=grad, **self._options)

    def _padded(self, x: Tensor) -> Tensor:
        return x if self._before is None else tf.pad(x, self._before)


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
        rows = tf.reshape(x, [-1, x.shape[-1]])
        return tf.matmul(rows, tf.reshape(grad, [-1, grad.shape[-1]]), transpose_a=True)


# --- eval-mode arithmetic, exact in every bit ------------------------------------------------------------------------


def add_exact(a: Tensor, b: Tensor, grids: tuple[Any, Any, Any], lo: Tensor, hi: Tensor, kernels: str) -> Tensor:
    """Return ``a + b`` on the third grid; see :func:`qat.arithmetic.kernels.Kernels.add`."""
    ga, gb, gy = grids
    ra, rb = ga.scale / gy.scale, gb.scale / gy.scale
    if kernels == "mlas":
        fixed = gy.zero_point - _fma(ga.zero_point, ra, rb * gb.zero_point)
        v = _fma(a + ga.zero_point, ra, _fma(b + gb.zero_point, rb, fixed))
        return tf.clip_by_value(tf.round(v) - gy.zero_point, lo, hi)
    low, high = xnnpack.ADD_RATIOS
    inside = tf.logical_and(tf.minimum(ra, rb) >= low, tf.maximum(ra, rb) < high)
    return tf.cond(inside, lambda: _xnnpack_add(a, b, ra, rb, lo, hi), lambda: _numpy_add(a, b, grids, lo, hi))


def _xnnpack_add(a: Tensor, b: Tensor, ra: Tensor, rb: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    f64 = tf.float64
    # The exponent of the larger ratio, read off its float32 bits, as XNNPACK does.
    exponent = tf.bitwise.right_shift(tf.bitcast(tf.maximum(ra, rb), tf.int32), 23) - 127
    power = tf.cast(tf.bitcast(tf.bitwise.left_shift(20 - exponent + 127, 23), tf.float32), f64)
    ma, mb = tf.round(tf.cast(ra, f64) * power), tf.round(tf.cast(rb, f64) * power)
    v = tf.floor((tf.cast(a, f64) * ma + tf.cast(b, f64) * mb) / power + 0.5)
    return tf.clip_by_value(tf.cast(v, tf.float32), lo, hi)


def _numpy_add(a: Tensor, b: Tensor, grids: tuple[Any, Any, Any], lo: Tensor, hi: Tensor) -> Tensor:
    """Return the sum by the NumPy reference: for scales that the delegate does not take, which are rare."""

    def add(x: Any, y: Any, low: Any, high: Any) -> Any:
        ea, eb, ey = (grid.encoding for grid in grids)
        return xnnpack.add(x, y, ea, eb, ey, float(low), float(high))

    y = tf.numpy_function(add, (a, b, lo, hi), tf.float32)
    y.set_shape(tf.broadcast_static_shape(a.shape, b.shape))
    return y


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return float32 ``a * b + c`` with one rounding; ``a`` is an 8-bit integer."""
    a, b, c = (tf.cast(x, tf.float64) for x in (a, b, c))
    return tf.cast(a * b + c, tf.float32)


def fixed_point(acc: Tensor, multiplier: Tensor) -> Tensor:
    """Return ``acc * multiplier`` by TFLite's optimized kernels, halves up; see :func:`qat.arithmetic.tflite.fixed_point`."""
    left_shift, right_shift = tf.bitwise.left_shift, tf.bitwise.right_shift
    mantissa, shift = _quantized_multiplier(multiplier)
    left, right = tf.maximum(shift, 0), tf.maximum(-shift, 0)
    high = right_shift(left_shift(tf.cast(acc, tf.int64), left) * mantissa + (1 << 30), np.int64(31))
    half = right_shift(left_shift(tf.ones_like(right), right), np.int64(1))
    return tf.cast(right_shift(high + half, right), tf.float32)


def _quantized_multiplier(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 mantissa of 31 bits and shift of a float64; see :func:`qat.arithmetic.tflite.quantize_multiplier`."""
    bits = tf.bitcast(value, tf.int64)
    shift = tf.bitwise.right_shift(bits, np.int64(52)) - 1022
    # The same mantissa with the exponent of [0.5, 1).
    fraction = tf.bitcast(tf.bitwise.bitwise_and(bits, (1 << 52) - 1) + (1022 << 52), tf.float64)
    mantissa = tf.cast(tf.floor(fraction * 2.0**31 + 0.5), tf.int64)
    full = tf.equal(mantissa, 1 << 31)
    return tf.where(full, mantissa // 2, mantissa), shift + tf.cast(full, tf.int64)

"""Learned scales: the scale of a weight and the range of an activation as variables, trained with everything else.

The gradients, their factor and their sources are those of :mod:`qat.adapters.torch.autograd.learned_scales`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from qat.arithmetic.grid import f32
from qat.arithmetic.range_estimators import weight_step

from .activation_grid import Grid
from .base import Linear
from .range_tracking import derived

Tensor = Any


def derive(grids: Sequence[Grid]) -> None:
    """Make scales, zero points and limits follow the ranges, which an optimizer may have moved since the last pass."""
    if not grids:
        return
    ranges = tf.stack([tf.convert_to_tensor(grid.range) for grid in grids])
    for name, values in zip(("scale", "zero_point", "lo", "hi"), derived(list(grids), ranges[:, 0], ranges[:, 1]), strict=True):
        for grid, value in zip(grids, tf.unstack(values, len(grids)), strict=True):
            getattr(grid, name).assign(value)


@tf.custom_gradient
def _round(v: Tensor) -> Any:
    """Rounding with a straight-through gradient."""
    return tf.math.rint(v), lambda grad: grad


def _within(grad: Tensor, v: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    return tf.where(tf.logical_and(v > lo, v < hi), grad, 0.0)


def quantize_weight(weight: Tensor, step: Tensor, scale: Tensor, shape: tuple[int, ...], qmax: Tensor) -> Tensor:
    """Return ``clamp(round(w / s), -qmax, qmax)``; ``shape`` lays the channels' scales along the weight's axes."""
    laid = tf.reshape(scale, shape)
    count = weight.shape.num_elements() / int(step.shape[0])
    others = [axis for axis, n in enumerate(shape) if n == 1]

    @tf.custom_gradient
    def node(weight: Tensor, step: Tensor) -> Any:
        v = weight / laid
        q = tf.clip_by_value(tf.math.rint(v), -qmax, qmax)

        def backward(grad: Tensor) -> Any:
            within = _within(grad, v, -qmax, qmax)
            slopes = (grad * q - within * v) / laid
            slopes = tf.reduce_sum(slopes, others if step.shape[0] > 1 else None)
            return within / laid, tf.reshape(slopes, step.shape) / tf.sqrt(count * qmax)

        return q, backward

    return node(weight, step)


def leave(v: Tensor, grid: Grid, lo: Tensor, hi: Tensor) -> Tensor:
    """Return ``clamp(round(v), lo, hi)``, with the gradients of the range's two ends where they limit the output."""
    levels = float(grid.group.qmax - grid.group.qmin)
    type_lo, type_hi, scale = (tf.convert_to_tensor(t) for t in (grid.lo, grid.hi, grid.scale))

    @tf.custom_gradient
    def node(v: Tensor, limits: Tensor) -> Any:
        y = tf.clip_by_value(tf.math.rint(v), lo, hi)

        def backward(grad: Tensor) -> Any:
            within = _within(grad, v, lo, hi)
            clipped = grad - within
            total = tf.reduce_sum(clipped)
            above = (tf.reduce_sum(clipped * y) - lo * total) / (hi - lo)
            rounding = tf.reduce_sum(within * (y - v)) / levels
            low_end = tf.where(tf.logical_and(tf.equal(lo, type_lo), lo < 0.0), total - above - rounding, 0.0)
            high_end = tf.where(tf.equal(hi, type_hi), above, 0.0) + rounding
            features = tf.cast(tf.size(v) // tf.shape(v)[0], tf.float32)
            factor = levels**2 / tf.sqrt(features * levels)
            return within, tf.stack([low_end, high_end]) * (factor / scale)

        return y, backward

    return node(v, tf.convert_to_tensor(grid.range))


class LearnedLinear(Linear):
    """conv2d, depthwise_conv2d and dense with a learned weight scale, a learned output range, or both.

    Attributes:
        step: the variable with the weight's scales, one an output channel, or one for all; None where the largest magnitude
            decides.
    """

    step: Any = None

    def count(self, shape: tuple[int, ...]) -> int:
        """Return how many scales a weight of that shape has; 0 where they are not learned."""
        spec = self.planned.weight
        assert spec is not None
        per_channel = spec.granularity == "channel"
        return 0 if not spec.learned else int(np.prod([shape[a] for a in self._channel_axes(len(shape))])) if per_channel else 1

    def start(self, weight: np.ndarray) -> None:
        """Set the scale where training starts: that of the least squared error."""
        if self.step is not None:
            axes = self._channel_axes(weight.ndim)
            rows = np.moveaxis(weight, axes, range(len(axes))).reshape(int(np.prod([weight.shape[a] for a in axes])), -1)
            self.step.assign(weight_step(rows, self.planned.qmax, 0 if self.step.shape[0] == len(rows) else None))

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """The kernel as three nodes, so that each rounding has its own gradient."""
        (x,), weight, bias = inputs, params["weight"], params.get("bias")
        self.kernel_size = tuple(weight.shape[:2])
        scale = self.weight_scale(weight, bias)
        if self.planned.kernels == "builtin" and not training:
            return self.builtin(x, weight, bias, scale)
        w_int, b_int = self.quantized(weight, bias, scale)
        acc = self.operator(x).forward(x, w_int)
        acc = acc if b_int is None else tf.nn.bias_add(acc, b_int)
        return self.finish(acc * (scale * self.grids[0].scale / self.output.scale), training)

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the learned scale for each output channel, no smaller than the bias needs."""
        if self.step is None:
            return super().weight_scale(weight, bias)
        scale = tf.maximum(tf.convert_to_tensor(self.step), np.float32(np.finfo(f32).tiny * 2.0**40))
        if bias is not None:
            floor = tf.abs(bias) / (self.grids[0].scale * np.float32(self.bias_limit))
            scale = tf.maximum(scale, floor if self.step.shape[0] > 1 else tf.reduce_max(floor))
        return tf.stop_gradient(tf.broadcast_to(scale, [int(np.prod(self.channels(weight)))]))

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers with straight-through gradients."""
        step = scale if self.step is None else tf.convert_to_tensor(self.step)
        w_int = quantize_weight(weight, step, scale, self.channels(weight), tf.convert_to_tensor(self.qmax))
        return w_int, None if bias is None else _round(bias / (scale * self.grids[0].scale))

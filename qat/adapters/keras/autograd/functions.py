"""Rounding with straight-through gradients: the forward pass is the runtime's arithmetic, the backward one elementwise pass.

The formulas and their sources are those of :mod:`qat.adapters.torch.autograd.functions`: limits are read off the rounded output.
TensorFlow's fake_quant operators are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.encoding import Encoding

#: The limits of a tensor on its grid. The lower one is the number 0 where a ReLU is fused.
Limits: TypeAlias = tuple[Tensor | float, Tensor]


class Encoded(Protocol):
    """The encoding of a tensor: as tensors for the graph, and in NumPy."""

    @property
    def scale(self) -> Tensor:
        """The step of its grid."""

    @property
    def zero_point(self) -> Tensor:
        """The integer of the number 0."""

    @property
    def encoding(self) -> Encoding:
        """The encoding in NumPy."""


def apply_clip_mask(grad: Tensor, y: Tensor, limits: Limits) -> Tensor:
    """Return the gradient where the output ``y`` lies strictly within the limits, else 0."""
    lo, hi = limits
    # Without this edge the graph's executor makes the factor of each mask in the forward pass and holds all of them.
    with tf.control_dependencies([grad]):
        # Relu6Grad is one pass where comparisons and a selection are four: [lo, hi] becomes [0, 6], hi just above 6, so that
        # the integers strictly between the limits, and no others, fall strictly between 0 and 6.
        above = y if _is_zero(lo) else y - lo
        return tf.raw_ops.Relu6Grad(gradients=grad, features=above * (6.00001 / (hi - lo)))


@tf.custom_gradient
def straight_through(v: Tensor, replacement: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, None]]]:
    """Return ``replacement`` with the gradient of ``v``."""
    return tf.identity(replacement), lambda grad: (grad, None)


def _is_zero(lo: Tensor | float) -> bool:
    """Whether a limit is the 0 of a fused ReLU, which is known while the graph is traced."""
    return isinstance(lo, float) and lo == 0.0


def rounded(v: Tensor, limits: Limits) -> Tensor:
    """Return ``clamp(round(v), *limits)``."""
    # Two passes in place that use the processor's vectors; the one of ClipByValue does not, and took four times as long.
    return tf.minimum(tf.maximum(tf.math.rint(v), limits[0]), limits[1])


def round_clamp(v: Tensor, limits: Limits) -> Tensor:
    """Return ``clamp(round(v), *limits)``; the gradient passes where the result is strictly within the limits."""

    @tf.custom_gradient
    def node(v: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y = rounded(v, limits)
        return y, lambda grad: apply_clip_mask(grad, y, limits)

    return node(v)

"""Range tracking: the extremes of the activations of one training pass, and the update of all ranges at its end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor
from tensorflow.core.framework import attr_value_pb2

from qat.arithmetic.encoding import FINEST, OF_ZEROS

from .activation_grid import Grid

#: The weight of a pass in the exponential moving average of the extremes.
MOMENTUM = 0.1


class RangeTracker:
    """One training pass. The extremes of each activation are taken as it is computed, where ``tracking`` is above 0.5.

    The ranges move after the last of them, so that every operator of a pass reads the scale that its input was written with.
    """

    def __init__(self, tracking: keras.Variable) -> None:
        self.on = tracking > 0.5
        self.seen: dict[Grid, list[Tensor]] = {}

    def see(self, grid: Grid, v: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Take the extremes of ``v``, unrounded grid values limited to ``[low, high]``; return ``v``, which depends on it."""
        taken, nothing = _extremes()
        given = [tf.stop_gradient(v), low, high]
        (seen,) = tf.raw_ops.If(
            cond=self.on, input=given, Tout=[tf.float32], then_branch=taken, else_branch=nothing, output_shapes=[[2]]
        )  # fmt: skip
        _inline(seen)
        self.seen.setdefault(grid, []).append(seen)
        with tf.control_dependencies([seen]):  # after which the rounding may reuse v's memory
            return tf.identity(v)

    def update_ranges(self) -> None:
        """Move the range of each grid towards the extremes seen of it, and derive scale, zero point and limits."""
        grids = list(self.seen)
        if not grids:
            return
        # Tensors that share a range count as one.
        number = [i for i, grid in enumerate(grids) for _ in self.seen[grid]]
        states = tf.stack([grid.read() for grid in grids])
        seen = tf.unstack(tf.stack([one for grid in grids for one in self.seen[grid]]), axis=1)
        extremes = _over_replicas(tf.stack([tf.math.segment_min(seen[0], number), tf.math.segment_max(seen[1], number)], 1))

        def follow() -> Tensor:
            ranges = states[:, :2]
            _assign(grids, states, ranges + MOMENTUM * (extremes * states[:, 2:3] - ranges))
            return tf.constant(True)

        tf.cond(self.on, follow, lambda: tf.constant(False))


def derive_encodings(grids: Sequence[Grid]) -> None:
    """Make scales, zero points and limits follow the ranges, which an optimizer may have moved since the last pass."""
    if grids:
        states, ranges = ([grid.read() for grid in grids], [grid.range for grid in grids])
        _assign(grids, tf.stack(states), tf.stack(ranges))


def _assign(grids: Sequence[Grid], states: Tensor, ranges: Tensor) -> None:
    """Assign the states, [grids, 8], that follow from ``ranges``, [grids, 2], bit for bit as :meth:`Group.encoding` has them."""
    symmetric = np.array([grid.group.symmetric for grid in grids])
    qmin, qmax = (np.array([getattr(grid.group, name) for grid in grids], np.float32) for name in ("qmin", "qmax"))
    low, high = tf.minimum(ranges[:, 0], 0.0), tf.maximum(ranges[:, 1], 0.0)
    # A divisor that is a variable: TensorFlow turns division by a constant into multiplication by its reciprocal.
    scale = tf.where(symmetric, tf.maximum(-low, high), high - low) / states[:, 6]
    scale = tf.where(scale > np.finfo(np.float32).tiny * np.float32(2**24), scale, OF_ZEROS)
    zero_point = tf.where(symmetric, 0.0, tf.clip_by_value(tf.round(qmin - low / scale), qmin, qmax))
    probabilities = np.array([grid.group.probabilities for grid in grids])
    if probabilities.any():
        whole = tf.maximum(tf.floor((qmax - qmin + 1) / 2 / tf.maximum(high, FINEST)), 256.0)
        unit = 1.0 / whole
        fine = tf.where(whole == 256.0, unit, tf.math.nextafter(unit, tf.zeros_like(unit)))
        scale, zero_point = tf.where(probabilities, fine, scale), tf.where(probabilities, qmin, zero_point)
    derived = tf.stack([scale, zero_point, qmin - zero_point, qmax - zero_point], 1)
    for grid, state in zip(grids, tf.unstack(tf.concat([ranges, derived, states[:, 6:]], 1), len(grids)), strict=True):
        grid.state.assign(state)


@functools.cache
def _extremes() -> tuple[Callable[..., Tensor], ...]:
    """Return the branches of every condition, as two functions: a ``tf.cond`` of its own for each grid takes long to trace."""

    def taken(v: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return tf.clip_by_value(tf.stack([tf.reduce_min(v), tf.reduce_max(v)]), low, high)

    def nothing(v: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return tf.zeros([2])

    specs = [tf.TensorSpec(None, tf.float32), *[tf.TensorSpec([], tf.float32)] * 2]
    return tuple(tf.function(branch).get_concrete_function(*specs) for branch in (taken, nothing))


def _inline(result: Tensor) -> None:
    """Let the graph decide a condition by two small operators instead of a call, as tf.cond does for its own conditions."""
    if not tf.executing_eagerly():
        result.op._set_attr("_lower_using_switch_merge", attr_value_pb2.AttrValue(b=True))


def _over_replicas(extremes: Tensor) -> Tensor:
    """Return the extremes over all replicas that train together, so that all hold the same scales."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return extremes
    # Exchanged in each step: an exchange between replicas cannot stand in a branch.
    gathered = tf.distribute.get_replica_context().all_gather(extremes[tf.newaxis], axis=0)
    return tf.stack([tf.reduce_min(gathered[..., 0], 0), tf.reduce_max(gathered[..., 1], 0)], 1)

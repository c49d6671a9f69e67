"""One view of every layer's weight: which of its numbers lead from which input channel to which output channel."""

from __future__ import annotations

import numpy as np

from .graph import Op
from .kinds import KINDS

#: The axis of the input channels, by that of the output channels (``channel_axis``): the two lie side by side.
_INPUT_AXIS = {0: 1, 1: 0, -1: -2, -2: -1}


def by_channel(op: Op, weight: np.ndarray) -> np.ndarray | None:
    """Return a layer's weight as ``[groups, outputs, inputs, *taps]``, channels counted within their group: a view of it.

    Channel ``c`` of all is channel ``c % n`` of group ``c // n``. A depthwise layer has a group for each input channel. None for
    a layer whose weight has no such view: a transposed one in groups, a dense one of scattered axes.

    Args:
        op: a linear one.
        weight: in the framework's own layout, contiguous.
    """
    axis, kind = op.attrs.get("channel_axis"), KINDS[op.kind]
    if kind.depthwise:
        # PyTorch: [channels * multiplier, 1, *taps], or one factor a channel. Keras: [*taps, channels, multiplier].
        if axis != 0:
            return np.moveaxis(weight, (-2, -1), (0, 1))[:, :, None]
        groups = int(op.attrs["groups"])
        return weight.reshape(groups, weight.shape[0] // groups, 1, *weight.shape[2:])
    if not kind.spatial and weight.ndim > 2:  # Keras': the input's axes, then the output's
        first = axis[0] if isinstance(axis, tuple) else axis
        if isinstance(axis, tuple) and axis != tuple(range(axis[0], weight.ndim)):
            return None  # the output's axes lie between the input's
        return weight.reshape(-1, int(np.prod(weight.shape[first:]))).T[None]
    groups = int(op.attrs.get("groups", 1))
    if not isinstance(axis, int) or (kind.transposed and groups > 1):
        return None
    laid = np.moveaxis(weight, (axis, _INPUT_AXIS[axis]), (0, 1))
    return laid.reshape(groups, laid.shape[0] // groups, *laid.shape[1:])

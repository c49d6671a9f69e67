"""One view of every layer's weight: which of its numbers lead from which input channel to which output channel."""

from __future__ import annotations

import numpy as np

from .graph import Op

#: The axis of the input channels, by kind and by that of the output channels (``channel_axis``).
_INPUT_AXIS: dict[str, dict[int, int]] = {
    "conv2d": {0: 1, -1: -2},
    "conv3d": {0: 1},
    "conv_transpose2d": {1: 0, -2: -1},
    "dense": {0: 1, 1: 0, -1: -2},
}


def by_channel(op: Op, weight: np.ndarray) -> np.ndarray | None:
    """Return a layer's weight as ``[groups, outputs, inputs, *taps]``, channels counted within their group: a view of it.

    Channel ``c`` of all is channel ``c % n`` of group ``c // n``. A depthwise layer has a group for each input channel. None for
    a layer whose weight has no such view: a transposed one in groups.

    Args:
        op: conv2d, depthwise_conv2d, conv3d, conv_transpose2d or dense.
        weight: in the framework's own layout, contiguous.
    """
    axis = op.attrs.get("channel_axis")
    if op.kind == "depthwise_conv2d":
        # PyTorch: [channels * multiplier, 1, *taps], or one factor a channel. Keras: [*taps, channels, multiplier].
        if axis != 0:
            return np.moveaxis(weight, (-2, -1), (0, 1))[:, :, None]
        groups = int(op.attrs["groups"])
        return weight.reshape(groups, weight.shape[0] // groups, 1, *weight.shape[2:])
    if op.kind == "dense" and weight.ndim > 2:  # Keras': the input's axes, then the output's
        first = axis[0] if isinstance(axis, tuple) else axis
        return weight.reshape(-1, int(np.prod(weight.shape[first:]))).T[None]
    inputs = _INPUT_AXIS.get(op.kind, {}).get(axis) if isinstance(axis, int) else None
    groups = int(op.attrs.get("groups", 1))
    if axis is None or inputs is None or (op.kind == "conv_transpose2d" and groups > 1):
        return None
    laid = np.moveaxis(weight, (axis, inputs), (0, 1))
    return laid.reshape(groups, laid.shape[0] // groups, *laid.shape[1:])

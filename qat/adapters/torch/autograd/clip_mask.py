"""Clip masks: where the backward pass of a node knows from that its output was clipped.

A value at its limits gets no gradient (Jacob et al. 2018, section 3).
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from . import passes, vnni
from .by_operators import Limits as Limits

hardtanh_backward = torch.ops.aten.hardtanh_backward.default


class ClipMask(Enum):
    """From what a node tells in its backward pass where its output was clipped.

    Attributes:
        OUTPUT: from the output itself, which a reader keeps anyway.
        BYTES: from a copy of the output, one byte a value.
        READERS: from nothing. The readers of the output give a gradient of 0 where it was clipped.
    """

    OUTPUT = "output"
    BYTES = "bytes"
    READERS = "readers"


def save_clip_mask(y: Tensor, limits: Limits, clip_mask: ClipMask) -> Tensor | None:
    """Return what a node keeps of its output ``y`` for :func:`apply_clip_mask`."""
    if clip_mask is ClipMask.READERS:
        return None
    if clip_mask is ClipMask.OUTPUT or limits[1] - limits[0] > 255:
        return y
    return vnni.to_table_index(y, int(limits[0]))


def apply_clip_mask(grad: Tensor, saved: Tensor | None, limits: Limits) -> Tensor:
    """Return the gradient where the output was strictly within the limits, else 0; perhaps ``grad`` itself."""
    if saved is None:
        return grad
    if saved.dtype is torch.uint8:
        return passes.of(grad).mask_by_bytes(grad, saved, limits[1] - limits[0])
    return hardtanh_backward(grad, saved, *limits)

"""Clip masks: where the backward pass of a node knows from that its output was clipped.

A value at its limits gets no gradient (Jacob et al. 2018, section 3).
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import passes
from .by_operators import Limits as Limits
from .by_operators import where_within
from .extremes import extra_output
from .kept_bytes import attach, keep


class ClipMask(Enum):
    """From what a node tells in its backward pass where its output was clipped.

    Attributes:
        OUTPUT: from the output itself, which a reader keeps anyway.
        KEPT: from what a reader keeps of it anyway: its bytes, or itself while its range is tracked.
        BYTES: from a copy of the output, one byte a value.
        READERS: from nothing. The readers of the output give a gradient of 0 where it was clipped.
    """

    OUTPUT = "output"
    KEPT = "kept"
    BYTES = "bytes"
    READERS = "readers"


class Output(NamedTuple):
    """What is asked of a node's output.

    Attributes:
        limits: of its integers.
        clip_mask: from what the backward pass tells where it was clipped.
        tracked: whether its range is tracked.
        first: the integer that a byte of zero stands for, where bytes of the output are kept; None where none are.
    """

    limits: Limits
    clip_mask: ClipMask = ClipMask.OUTPUT
    tracked: bool = False
    first: int | None = None


def rounded(ctx: Any, v: Tensor, multiplier: Tensor | None, output: Output, axis: int = -1) -> tuple[Tensor, Tensor | None]:
    """Return the integers of ``v * multiplier``, in the memory of ``v``, and the extremes before rounding where they are tracked.

    Args:
        ctx: of the autograd node.
        v: an accumulator.
        multiplier: of each channel, or one of all; None is 1.
        output: what is asked of the output.
        axis: of the channels: 1 or -1.
    """
    found = None
    if output.tracked:
        v = v if multiplier is None else v.mul_(multiplier.view(-1, 1, 1) if axis == 1 else multiplier)
        multiplier, found = None, extra_output(ctx, v, True)
    first = None if torch.compiler.is_compiling() else output.first
    y, in_bytes = passes.of(v).requantize(v, multiplier, output.limits, axis, first)
    attach(y, first, in_bytes)
    return y, found


def save_clip_mask(y: Tensor, output: Output) -> Tensor | None:
    """Return what a node keeps of its output ``y`` for :func:`apply_clip_mask`."""
    if output.clip_mask is ClipMask.READERS:
        return None
    return y if output.clip_mask is ClipMask.OUTPUT else keep(y, _first(output))


def apply_clip_mask(grad: Tensor, saved: Tensor | None, output: Output) -> Tensor:
    """Return the gradient where the output was strictly within its limits, else 0; perhaps ``grad`` itself."""
    if saved is None:
        return grad
    if saved.dtype is torch.uint8:
        (lo, hi), first = output.limits, _first(output)
        assert first is not None
        return passes.of(grad).mask_by_bytes(grad, saved, (lo - first, hi - first))
    return where_within(grad, saved, output.limits)


def _first(output: Output) -> int | None:
    """Return the integer that a byte of zero stands for in the clip mask; None where the mask is the output itself."""
    lo, hi = output.limits
    if output.first is None and output.clip_mask is ClipMask.BYTES and hi - lo <= 255:
        return int(lo)
    return output.first

"""The ATen operators that only move values: on integers they do what they do in float, with one scale."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

#: None of these reads more than one tensor to be moved. Maxima and minima are taken of integers, in the order of the real values.
MOVES: tuple[Any, ...] = (
    aten.permute.default, aten.transpose.int, aten.t.default, aten.numpy_T.default, aten.mT.default, aten.swapaxes.default,
    aten.swapdims.default, aten.movedim.int, aten.movedim.intlist, aten.rot90.default,
    aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.index_select.default, aten.unfold.default,
    aten.flip.default, aten.roll.default, aten.expand.default, aten.repeat.default, aten.tile.default,
    aten.repeat_interleave.self_int, aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default,
    aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default,
    aten.max_pool3d.default, aten.amax.default, aten.amin.default,
)  # fmt: skip

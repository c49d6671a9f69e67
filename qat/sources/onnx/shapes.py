"""Operators that change shapes and types and keep every number, or repeat and leave out some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F

from .operator import DAMAGED, FIX, Length, Operand, Operator, Result, Rows, expression

_slice = torch.ops.aten.slice.Tensor


def _same(n: Operator) -> Result:
    return n[0]


def _reshape(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Reshape.html: 0 is the input's size, -1 what is left."""
    sizes = n.shape(n[0])
    target: list[Length] = n.lengths(1) if n.get(1) is not None else list(n.attr("shape", ()))
    if not n.attr("allowzero", 0):
        target = [sizes[axis] if _is(size, 0) else size for axis, size in enumerate(target)]
    target = _with_batch(n, sizes, target)
    return n.call(torch.reshape, n[0], [_rest(sizes, target) if _is(size, -1) else size for size in target])


def _rest(sizes: Sequence[Length], target: Sequence[Length]) -> int:
    """Return the size that -1 stands for, where it is the same for all inputs; -1 where PyTorch is to find it."""
    whole, part = (math.prod(map(expression, shape)) for shape in (sizes, [size for size in target if not _is(size, -1)]))
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if part and whole % part == 0 else -1
    rest = whole / part
    return int(rest) if rest.is_Integer else -1


def _with_batch(n: Operator, sizes: Sequence[Length], target: list[Length]) -> list[Length]:
    """Return the shape that a file of one batch size wrote as a number, with the batch, of any size, at its place.

    A size that is the file's batch is that place, if as many elements lie before it as before the input's batch. Otherwise an
    axis grows with the batch, but not the last one: rows of features as a matrix, [rows, features], become
    [rows * batch, features]. Loading proves the choice.
    """
    batch = n.batch
    axis = next((axis for axis, size in enumerate(sizes) if batch is not None and batch.is_in(size)), None)
    if batch is None or axis is None or any(batch.is_in(size) for size in target):
        return target
    own, before = sizes[axis], math.prod(map(expression, sizes[:axis]))
    count, grown = batch.in_file(own), list[int]()
    if count is None:
        return target
    for place, size in enumerate(target):
        if not isinstance(size, int) or size < 0:
            break
        first = math.prod(map(expression, target[:place]))
        if size == batch.size and _lies_within(first, before, count // batch.size):
            grown = [place]
            break
        if not grown and first == before and size % batch.size == 0:
            grown = [place - 1 if size > batch.size == 1 and 0 < place == len(target) - 1 else place]
    return [batch.times(own, s) if p in grown else s for p, s in enumerate(target)]


def _lies_within(first: Any, before: Any, count: int) -> bool:
    """Return whether a place lies at one of the ``count`` elements after ``before``."""
    if isinstance(first, int) and isinstance(before, int):
        return first % before == 0 and (before * count) % first == 0
    return bool(first == before)


def _flatten(n: Operator) -> Result:
    """The result has two axes, whatever the input has."""
    x, rank = n[0], n.rank(n[0])
    axis = n.attr("axis", 1)
    axis = axis + rank if axis < 0 else axis
    if axis == 0:
        return n.call(torch.reshape, x, [1, -1])
    if axis == rank:
        return n.call(torch.reshape, x, [-1, 1])
    x = x if axis == rank - 1 else n.call(torch.flatten, x, axis)
    return x if axis == 1 else n.call(torch.flatten, x, 0, axis - 1)


def _squeeze(n: Operator) -> Result:
    axes = n.ints("axes", 1)
    if axes is None:
        axes = [axis for axis, size in enumerate(n.shape(n[0])) if size == 1]
    return n.call(torch.squeeze, n[0], [n.axis(n[0], axis) for axis in axes])


def _unsqueeze(n: Operator) -> Result:
    axes = n.ints("axes", 1) or []
    rank = n.rank(n[0]) + len(axes)
    x = n[0]
    for axis in sorted(a % rank for a in axes):
        x = n.call(torch.unsqueeze, x, axis)
    return x


def _transpose(n: Operator) -> Result:
    axes = list(n.attr("perm", range(n.rank(n[0]))[::-1]))
    return n[0] if axes == sorted(axes) else n.call(torch.permute, n[0], axes)


def _concat(n: Operator) -> Result:
    parts = [n[i] for i in range(len(n.inputs)) if 0 not in n.shape(n[i])]
    axis = n.axis(parts[0], n.attr("axis", 1))
    return n.call(torch.cat, [_beside(n, part, parts, axis) for part in parts], axis)


def _beside(n: Operator, part: Operand, parts: Sequence[Operand], along: int) -> Operand:
    """Return a part that a file of one sample has once, as often as there are samples."""
    if n.batch is None or n.batch.size != 1:
        return part
    own = n.shape(part)
    shape = list(own)
    for other in parts:
        for axis, (mine, its) in enumerate(zip(own, n.shape(other), strict=True)):
            if axis != along and _is(mine, 1) and n.batch.is_in(its):
                shape[axis] = its
    return part if shape == own else n.call(torch.broadcast_to, part, shape)


def _split(n: Operator) -> Result:
    """The parts are an attribute before opset 13, an input from then on; from 18 on the last one may be smaller."""
    x, axis = n[0], n.axis(n[0], n.attr("axis", 0))
    parts = n.ints("split", 1)
    if parts is None:
        size, count = n.shape(x)[axis], n.attr("num_outputs", len(n.node.outputs))
        if not isinstance(size, int):
            n.refuse("splits a free axis", FIX)
        one = -(-size // count)
        parts = [min(one, size - i * one) for i in range(count)]
    return n.calls(torch.split, x, parts, axis)


def _slices(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Slice.html: attributes before opset 10, inputs from then on."""
    if n.get(1) is None:
        starts, ends = list(n.attr("starts", ())), list(n.attr("ends", ()))
        axes, steps = list(n.attr("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = n.lengths(1), n.lengths(2)
        axes = n.ints("", 3, range(len(starts))) or []
        steps = n.ints("", 4, [1] * len(starts)) or []
    x = n[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = n.axis(x, axis)
        if step > 0:
            if not _is(start, 0) or not isinstance(end, int) or end < 2**31 - 1 or step > 1:
                x = n.call(_slice, x, place, start, end, step)
            continue
        # PyTorch steps forward only: the axis is turned, and start and end with it.
        size = n.shape(x)[place]
        x = n.call(torch.flip, x, [place])
        first, last = (_turned(position, size) for position in (start, end))
        x = n.call(_slice, x, place, first, last, -step)
    return x


def _turned(position: Length, size: Length) -> Length:
    """Return a position, counted from either end, on the reversed axis."""
    if isinstance(position, int) and isinstance(size, int):
        position = min(max(position + size if position < 0 else position, -1), size - 1)
        return size - 1 - position
    if isinstance(position, int) and position < 0:
        return -1 - position if position > -(2**31) else 2**63 - 1
    return 0 if isinstance(position, int) and position >= 2**31 - 1 else size - 1 - position


def _expand(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Expand.html: both shapes are broadcast, so that 1 keeps a size."""
    target, own = n.lengths(1), n.shape(n[0])
    own = [*[1] * (len(target) - len(own)), *own]
    target = [*[1] * (len(own) - len(target)), *target]
    shape = [size if _is(mine, 1) else mine for mine, size in zip(own, target, strict=True)]
    if len(shape) == n.rank(n[0]) and all(_is(size, 1) for size in target):
        return n[0]
    return n.call(torch.broadcast_to, n[0], shape)


def _tile(n: Operator) -> Result:
    repeats = n.lengths(1)
    return n[0] if all(_is(r, 1) for r in repeats) else n.call(torch.tile, n[0], repeats)


def _pad(n: Operator) -> Result:
    """Pads are an attribute before opset 11, an input from then on; the axes that they are of, from 18 on."""
    x, rank = n[0], n.rank(n[0])
    pads: list[Length] = n.lengths(1) if n.get(1) is not None else list(n.attr("pads", ()))
    value = n.number(2) if n.get(2) is not None else n.attr("value", 0.0)
    axes = [n.axis(x, axis) for axis in n.ints("", 3, range(rank)) or ()]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[n.attr("mode", "constant")]
    both: list[tuple[Length, Length]] = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        both[axis] = before, after
    while both and all(_is(side, 0) for side in both[0]):
        both = both[1:]
    if not both:
        return x
    amounts = [side for pair in reversed(both) for side in pair]
    if mode == "constant":
        return n.call(F.pad, x, amounts, mode, value)
    if len(both) > 3 or len(both) == rank:
        n.refuse(f"pads axes by '{mode}' that PyTorch does not")
    # PyTorch pads by content the last axes of tensors of two axes more.
    lead = rank - len(both) - 2
    shape = n.shape(x)
    flat = x if lead == 0 else n.call(torch.flatten, x, 0, lead) if lead > 0 else n.call(torch.unsqueeze, x, 0)
    y = n.call(F.pad, flat, amounts, mode)
    if lead == 0:
        return y
    return n.call(torch.squeeze, y, [0]) if lead < 0 else n.call(torch.reshape, y, [*shape[: lead + 1], *n.shape(y)[1:]])


def _depth_to_space(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__DepthToSpace.html: PyTorch's pixel shuffle is the mode CRD."""
    x, block = n[0], n.attr("blocksize")
    if n.attr("mode", "DCR") == "CRD":
        return n.call(torch.pixel_shuffle, x, block)
    batch, channels, height, width = n.shape(x)
    if not isinstance(channels, int):
        n.refuse("has channels of free size", FIX)
    split = n.call(torch.reshape, x, [batch, block, block, channels // block**2, height, width])
    moved = n.call(torch.permute, split, [0, 3, 4, 1, 5, 2])
    return n.call(torch.reshape, moved, [batch, channels // block**2, height * block, width * block])


def _space_to_depth(n: Operator) -> Result:
    x, block = n[0], n.attr("blocksize")
    batch, channels, height, width = n.shape(x)
    split = n.call(torch.reshape, x, [batch, channels, height // block, block, width // block, block])
    moved = n.call(torch.permute, split, [0, 3, 5, 1, 2, 4])
    return n.call(torch.reshape, moved, [batch, channels * block**2, height // block, width // block])


def cast(n: Operator, x: Operand, dtype: torch.dtype) -> Operand:
    """Return a tensor in a type."""
    if n.dtype(x) == dtype:
        return x
    if dtype == torch.bool:
        return n.call(torch.ne, x, 0)
    return n.call(torch.Tensor.to, x, dtype)


def _cast(n: Operator) -> Result:
    """Real numbers of any width are float32."""
    return cast(n, n[0], torch_dtype(n, n.attr("to", 1)))


def torch_dtype(n: Operator, kind: int) -> torch.dtype:
    """Return PyTorch's type for the number of a type in ONNX."""
    try:
        numpy_type = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        n.refuse(f"names type {kind}, which is none", DAMAGED)
    if numpy_type.kind == "f" or numpy_type.name.startswith(("bfloat", "float")):
        return torch.float32
    dtype: Any = getattr(torch, numpy_type.name, None)
    if not isinstance(dtype, torch.dtype):
        n.refuse(f"makes tensors of type {numpy_type.name}, which PyTorch does not have")
    return torch.int64 if dtype in (torch.uint16, torch.uint32, torch.uint64) else dtype


def _is(size: Length, number: int) -> bool:
    return isinstance(size, int) and size == number


ROWS: Rows = {
    "Identity": _same,
    "Dropout": lambda n: [n[0], None],
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slices,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Cast": _cast,
    "CastLike": lambda n: cast(n, n[0], n.dtype(n[1])),
}

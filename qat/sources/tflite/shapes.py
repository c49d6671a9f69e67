"""Operators that move values or change shapes.

tensorflow/lite/kernels/{reshape,transpose,concatenation,split,split_v,slice,strided_slice,pack,unpack,pad,mirror_pad,squeeze,
expand_dims,depth_to_space,space_to_depth,tile,reverse,broadcast_to,fill,shape}.cc.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from qat.errors import CaptureError
from qat.sources.module_writer import Value

from .flatbuffer import Operator
from .importer import Importer, Row, torch_type
from .laid import Laid, as_in_file, channels_first, in_file_order


def reshape(b: Importer, op: Operator) -> Laid:
    """RESHAPE, of which the first axis takes the batch. An image of one pixel or one channel needs no other order for it."""
    x = b.laid(op, 0)
    shape: list[int | Value]
    if b.has(op, 1):
        shape = b.numbers(op, 1)
    else:
        shape = [int(n) for n in op.options.newShape]
    in_order = [axis for axis, n in zip(x.order, x.value.shape, strict=True) if n != 1]
    value = x.value if in_order == sorted(in_order) else b.ordered(x)
    return in_file_order(b.call(torch.reshape, value, _with_batch(value, shape)))


def _with_batch(x: Value, shape: Sequence[int | Value]) -> list[int | Value]:
    """Return a shape for any batch. A file that has one sample writes 1, or the number of its rows, where the batch is."""
    if not shape or isinstance(shape[0], Value) or not x.shape or isinstance(x.shape[0], int):
        return list(shape)
    rest = list(shape[1:])
    if -1 in rest:
        sizes, known = x.shape[1:], [n for n in rest if n != -1]
        if not all(isinstance(n, int) for n in (*sizes, *known)) or shape[0] != 1:
            return list(shape)
        rest[rest.index(-1)] = int(np.prod(sizes)) // max(int(np.prod(known)), 1)  # type: ignore[arg-type]
    return [-1, *rest]


def transpose(b: Importer, op: Operator) -> Laid:
    """TRANSPOSE: only the order of the axes changes; a permutation is written where a reader needs one."""
    x, axes = b.laid(op, 0), b.integers(op, 1)
    return Laid(x.value, tuple([a % x.rank for a in axes].index(axis) for axis in x.order))


def concatenation(b: Importer, op: Operator) -> Laid:
    """CONCATENATION, along an axis of the file's."""
    laid = [b.laid(op, i) for i in range(len(op.inputs))]
    order = next((x.order for x in laid if x.order != as_in_file(x.rank)), as_in_file(laid[0].rank))
    values = [b.ordered(x, order) for x in laid]
    axis = Laid(values[0], order).axis(op.options.axis)
    return Laid(b.activated(b.call(torch.cat, values, axis), op), order)


def _parts(b: Importer, x: Laid, axis: int, sizes: Sequence[int]) -> list[Laid]:
    return [Laid(part, x.order) for part in b.writer.calls(torch.split, x.value, list(sizes), x.axis(axis))]


def split(b: Importer, op: Operator) -> list[Laid]:
    """SPLIT: the axis, then the input."""
    (axis,), x = b.integers(op, 0), b.laid(op, 1)
    count = len(op.outputs)
    return _parts(b, x, axis, [_fixed(op, x, axis) // count] * count)


def split_v(b: Importer, op: Operator) -> list[Laid]:
    """SPLIT_V: the input, the sizes of which one can be -1, the axis."""
    x, sizes, (axis,) = b.laid(op, 0), b.integers(op, 1), b.integers(op, 2)
    if -1 in sizes:
        sizes[sizes.index(-1)] = _fixed(op, x, axis) - sum(n for n in sizes if n >= 0)
    return _parts(b, x, axis, sizes)


def unpack(b: Importer, op: Operator) -> list[Laid]:
    """UNPACK: one output for each place of an axis, which they lose."""
    x, axis = b.laid(op, 0), op.options.axis
    _fixed(op, x, axis)
    return [Laid(part, x.without([axis])) for part in b.writer.calls(torch.unbind, x.value, x.axis(axis))]


def pack(b: Importer, op: Operator) -> Laid:
    """PACK: along a new axis."""
    values = [b.plain(op, i) for i in range(len(op.inputs))]
    return in_file_order(b.call(torch.stack, values, op.options.axis))


def _fixed(op: Operator, x: Laid, axis: int) -> int:
    size = x.size(axis)
    if not isinstance(size, int):
        raise CaptureError(f"{op} divides axis {axis}, whose size is free")
    return size


def slice_(b: Importer, op: Operator) -> Laid:
    """SLICE: the start of each axis, and its size, of which -1 is the rest."""
    x, starts, sizes = b.plain(op, 0), b.integers(op, 1), b.integers(op, 2)
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        x = _cut(b, x, axis, start, None if size == -1 else start + size)
    return in_file_order(x)


def _cut(b: Importer, x: Value, axis: int, start: int, end: int | None, step: int = 1) -> Value:
    """Take a part of an axis. The batch, of which a file has one sample, is taken whole."""
    size = x.shape[axis]
    if not isinstance(size, int):
        return x if start == 0 and step == 1 and end in (None, 1) else _slice(b, x, axis, start, end, step)
    if start == 0 and (end is None or end >= size) and step == 1:
        return x
    return _slice(b, x, axis, start, size if end is None else end, step)


def _slice(b: Importer, x: Value, axis: int, start: int, end: int | None, step: int) -> Value:
    return b.call(torch.ops.aten.slice.Tensor, x, axis, start, end, step)


def strided_slice(b: Importer, op: Operator) -> Laid:
    """STRIDED_SLICE, as NumPy's slices; the bits of its masks say which ends are open, and which axes are new or go."""
    x, axis = b.plain(op, 0), 0
    for index in slices_of(b, op, len(x.shape)):
        if index is None:
            x, axis = b.call(torch.unsqueeze, x, axis), axis + 1
        elif isinstance(index, int):
            x = b.call(torch.select, x, axis, index)
        elif index.step is not None and index.step < 0:
            size = x.shape[axis]
            if not isinstance(size, int):
                raise CaptureError(f"{op} takes an axis of free size backwards")
            places = np.arange(size)[index]
            x, axis = b.call(torch.index_select, x, axis, b.constant(places, f"{op.scope}.places")), axis + 1
        else:
            size, start, end = x.shape[axis], index.start or 0, index.stop
            if isinstance(size, int):
                start, end, _ = index.indices(size)
            x, axis = _cut(b, x, axis, start, end, index.step or 1), axis + 1
    return in_file_order(x)


def slices_of(b: Importer, op: Operator, rank: int) -> list[slice | int | None]:
    """Return the index of each axis of a STRIDED_SLICE: a slice, a place, or None for a new axis."""
    begin, end, step = (b.integers(op, i) for i in (1, 2, 3))
    o = op.options
    found: list[slice | int | None] = []
    new = bin(o.newAxisMask).count("1")
    for i, (first, last, stride) in enumerate(zip(begin, end, step, strict=True)):
        bit = 1 << i
        if o.ellipsisMask & bit:
            found += [slice(None)] * (rank - (len(begin) - 1 - new))
        elif o.newAxisMask & bit:
            found.append(None)
        elif o.shrinkAxisMask & bit:
            found.append(first)
        else:
            stop = first + last if o.offset else last
            found.append(slice(None if o.beginMask & bit else first, None if o.endMask & bit else stop, stride))
    return found


def pad(b: Importer, op: Operator) -> Laid:
    """PAD, PADV2 and MIRROR_PAD: the numbers of places before and after each axis."""
    amounts = np.reshape(b.integers(op, 1), (-1, 2)).tolist()
    laid, value = b.laid(op, 0), float(b.known(op, 2).item()) if op.code == "PADV2" else 0.0
    padded = [axis for axis, both in enumerate(amounts) if any(both)]
    if op.code == "MIRROR_PAD":
        return _mirrored(b, op, amounts)
    if laid.rank == 4 and padded == [3] and value == 0:
        return _more_channels(b, laid, amounts[3])
    order = channels_first(4) if laid.rank == 4 and not {0, 3}.intersection(padded) else as_in_file(laid.rank)
    flat = [n for axis in reversed(order) for n in amounts[axis]]
    while flat and not any(flat[-2:]):
        del flat[-2:]
    x = b.ordered(laid, order)
    return Laid(b.call(F.pad, x, flat, "constant", value) if flat else x, order)


def _more_channels(b: Importer, laid: Laid, both: Sequence[int]) -> Laid:
    """Pad the channels of an image in rows of pixels, for which no axes change their places."""
    x = b.ordered(laid)
    _, height, width, channels = x.shape
    if not all(isinstance(n, int) for n in (height, width, channels)):
        return in_file_order(b.call(F.pad, x, list(both)))
    rows = b.call(torch.reshape, x, (-1, 1, int(height) * int(width), int(channels)))
    longer = b.call(F.pad, rows, list(both))
    return in_file_order(b.call(torch.reshape, longer, (-1, int(height), int(width), int(channels) + sum(both))))


def _mirrored(b: Importer, op: Operator, amounts: list[list[int]]) -> Laid:
    """Take each place of a mirrored axis from where it is mirrored."""
    x, twice = b.plain(op, 0), op.options.mode  # SYMMETRIC has the border twice
    for axis, (before, after) in enumerate(amounts):
        if before or after:
            size = _fixed(op, in_file_order(x), axis)
            places = np.pad(np.arange(size), (before, after), "symmetric" if twice else "reflect")
            x = b.call(torch.index_select, x, axis, b.constant(places, f"{op.scope}.places"))
    return in_file_order(x)


def squeeze(b: Importer, op: Operator) -> Laid:
    """SQUEEZE: of the axes that are named, else of all axes of size 1 but the batch."""
    x, named = b.laid(op, 0), op.options.squeezeDims
    axes = [int(a) % x.rank for a in named] if named is not None and len(named) else []
    axes = axes or [a for a in range(x.rank) if isinstance(x.size(a), int) and x.size(a) == 1]
    return Laid(b.call(torch.squeeze, x.value, tuple(sorted(x.axis(a) for a in axes))), x.without(axes))


def expand_dims(b: Importer, op: Operator) -> Laid:
    """EXPAND_DIMS."""
    x, (axis,) = b.plain(op, 0), b.integers(op, 1)
    return in_file_order(b.call(torch.unsqueeze, x, axis))


def depth_to_space(b: Importer, op: Operator) -> Laid:
    """DEPTH_TO_SPACE: the channels are ``[row in block, column in block, channel]``."""
    x, n = b.plain(op, 0), op.options.blockSize
    height, width, channels = (_fixed(op, in_file_order(x), axis) for axis in (1, 2, 3))
    blocks = b.call(torch.reshape, x, (-1, height, width, n, n, channels // n**2))
    turned = b.call(torch.permute, blocks, (0, 1, 3, 2, 4, 5))
    return in_file_order(b.call(torch.reshape, turned, (-1, height * n, width * n, channels // n**2)))


def space_to_depth(b: Importer, op: Operator) -> Laid:
    """SPACE_TO_DEPTH: the channels become ``[row in block, column in block, channel]``."""
    x, n = b.plain(op, 0), op.options.blockSize
    height, width, channels = (_fixed(op, in_file_order(x), axis) for axis in (1, 2, 3))
    blocks = b.call(torch.reshape, x, (-1, height // n, n, width // n, n, channels))
    turned = b.call(torch.permute, blocks, (0, 1, 3, 2, 4, 5))
    return in_file_order(b.call(torch.reshape, turned, (-1, height // n, width // n, channels * n**2)))


def tile(b: Importer, op: Operator) -> Laid:
    """TILE."""
    return in_file_order(b.call(torch.tile, b.plain(op, 0), b.integers(op, 1)))


def reverse(b: Importer, op: Operator) -> Laid:
    """REVERSE_V2: of the axes that are named."""
    x = b.laid(op, 0)
    return Laid(b.call(torch.flip, x.value, [x.axis(a) for a in b.integers(op, 1)]), x.order)


def broadcast_to(b: Importer, op: Operator) -> Laid:
    """BROADCAST_TO. The batch is that of the input."""
    x, shape = b.plain(op, 0), b.numbers(op, 1)
    if shape and len(shape) == len(x.shape) and not isinstance(x.shape[0], int):
        shape[0] = -1
    return in_file_order(b.call(torch.broadcast_to, x, shape))


def fill(b: Importer, op: Operator) -> Laid:
    """FILL: a shape, and the number."""
    dtype = torch_type(b.graph.tensors[op.outputs[0]])
    return in_file_order(b.call(torch.full, b.numbers(op, 0), b.known(op, 1).item(), dtype=dtype))


ROWS: dict[str, Row] = {
    "RESHAPE": reshape,
    "TRANSPOSE": transpose,
    "CONCATENATION": concatenation,
    "SPLIT": split,
    "SPLIT_V": split_v,
    "UNPACK": unpack,
    "PACK": pack,
    "SLICE": slice_,
    "STRIDED_SLICE": strided_slice,
    "PAD": pad,
    "PADV2": pad,
    "MIRROR_PAD": pad,
    "SQUEEZE": squeeze,
    "EXPAND_DIMS": expand_dims,
    "DEPTH_TO_SPACE": depth_to_space,
    "SPACE_TO_DEPTH": space_to_depth,
    "TILE": tile,
    "REVERSE_V2": reverse,
    "BROADCAST_TO": broadcast_to,
    "FILL": fill,
}

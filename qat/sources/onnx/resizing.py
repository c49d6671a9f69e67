"""Resizing of images: nearest by indices, linear and cubic as PyTorch interpolates, other rules as products with constants.

Source: https://onnx.ai/onnx/operators/onnx__Resize.html.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from .operator import FIX, Known, Length, Operand, Operator, Result, Rows, Size

#: How long an axis of free size is taken to be to see what a rule does to it.
_TRIED = 24


def _resize(n: Operator) -> Result:
    x = n[0]
    axes, scales, sizes = _request(n)
    moved = [a for a, scale, size in zip(axes, scales, sizes, strict=True) if _changes(n.shape(x)[a], scale, size)]
    if not moved:
        return x
    kept = [(s, z) for a, s, z in zip(axes, scales, sizes, strict=True) if a in moved]
    mode = n.attr("mode", "nearest")
    if mode == "nearest":
        return _nearest(n, x, moved, kept)
    return _interpolated(n, x, moved, kept, mode)


def _changes(size: Length, scale: float | None, wanted: Length | None) -> bool:
    if wanted is None:
        return scale != 1
    same = wanted.same_symbol(size) if isinstance(wanted, Size) else isinstance(size, int) and wanted == size
    return not same


def _request(n: Operator) -> tuple[list[int], list[float | None], list[Length | None]]:
    """Return the axes, and the factor or the size that each is to have."""
    rank = n.rank(n[0])
    axes = [n.axis(n[0], axis) for axis in n.attr("axes", range(rank))]
    place = 1 if n.node.type == "Upsample" or n.opset < 11 else 2
    if n.node.type == "Upsample" and n.get(1) is None:
        scales = list(n.attr("scales", ()))
    elif n.get(place) is not None and n.shape(n[place]) != [0]:
        scales = n.array(place).reshape(-1).tolist()
    else:
        wanted = n.lengths(3)
        if n.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            n.refuse("keeps the ratio of the sides, which has no row", "give it sizes or scales")
        return axes, [None] * len(axes), list(wanted)
    return axes, scales, [None] * len(axes)


#: What an axis is to have: a factor, or a size.
Part: TypeAlias = tuple[float | None, Length | None]


def _nearest(n: Operator, x: Operand, axes: list[int], parts: Sequence[Part]) -> Result:
    """Write the nearest elements: whole factors as an up-sampling, anything else as indices."""
    factors = [_whole_factor(n, n.shape(x)[a], *part) for a, part in zip(axes, parts, strict=True)]
    rank = n.rank(x)
    if all(factors) and rank in (3, 4) and min(axes) >= 2:
        by_axis = dict(zip(axes, factors, strict=True))
        return n.call(F.interpolate, x, None, [float(by_axis.get(a) or 1) for a in range(2, rank)], "nearest")
    for axis, (scale, size) in zip(axes, parts, strict=True):
        length, count = _fixed(n, x, axis, size)
        index = _nearest_index(n, length, scale, count)
        x = n.call(torch.index_select, x, axis, Known(f"{n.node.name}/index", index))
    return x


def _fixed(n: Operator, x: Operand, axis: int, size: Length | None) -> tuple[int, int | None]:
    """Return the length of an axis and its size to be, as numbers: what is resized by constants cannot be free."""
    length = n.shape(x)[axis]
    if not isinstance(length, int) or isinstance(size, Size):
        n.refuse("resizes a free axis by a rule that PyTorch lacks", FIX)
    return length, size


def _whole_factor(n: Operator, length: Length, scale: float | None, size: Length | None) -> int:
    """Return how often each element is repeated, in their order; 0 where the rule does something else."""
    factor: Any = scale
    if scale is None:
        factor = size / length if isinstance(size, int) and isinstance(length, int) else _quotient(size, length)
    if not factor or factor != int(factor):
        return 0
    tried = length if isinstance(length, int) else _TRIED
    index = _nearest_index(n, tried, factor, None)
    return int(factor) if np.array_equal(index, np.arange(len(index)) // int(factor)) else 0


def _quotient(size: Any, length: Any) -> float:
    """Return the quotient of two sizes of free axes where it is a number."""
    if not (isinstance(size, Size) and isinstance(length, Size)):
        return 0.0
    ratio = size.number.node.expr / length.number.node.expr
    return float(ratio) if ratio.is_number else 0.0


def _nearest_index(n: Operator, length: int, scale: float | None, size: Any) -> np.ndarray:
    x = _coordinates(n, length, scale, size)
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    rule = "floor" if n.opset < 11 else n.attr("nearest_mode", "round_prefer_floor")
    return np.clip(rounding[rule](x), 0, length - 1).astype(np.int64)


def _coordinates(n: Operator, length: int, scale: float | None, size: int | None) -> np.ndarray:
    """Return where each element of the result lies on the input's axis."""
    count = math.floor(length * scale) if size is None and scale is not None else int(size or 0)
    scale = count / length if scale is None else scale
    i = np.arange(count, dtype=np.float64)
    rule = "asymmetric" if n.opset < 11 else n.attr("coordinate_transformation_mode", "half_pixel")
    if rule == "asymmetric":
        return i / scale
    if rule == "align_corners":
        return i * (length - 1) / (count - 1) if count > 1 else i * 0
    if rule == "pytorch_half_pixel" and count == 1:
        return i * 0
    if rule in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / scale - 0.5
    if rule == "half_pixel_symmetric":
        return length / 2 * (1 - count / (scale * length)) + (i + 0.5) / scale - 0.5
    n.refuse(f"resizes by '{rule}', which has no row")


_MODES = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}


def _interpolated(n: Operator, x: Operand, axes: list[int], parts: Sequence[Part], mode: str) -> Result:
    rule = "asymmetric" if n.opset < 11 else n.attr("coordinate_transformation_mode", "half_pixel")
    rank, antialias = n.rank(x), bool(n.attr("antialias", 0))
    name = _MODES.get((mode, rank))
    plain = mode == "linear" or (n.attr("cubic_coeff_a", -0.75) == -0.75 and not n.attr("exclude_outside", 0))
    if name and plain and min(axes) >= 2 and rule in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = rule == "align_corners"
        shape, by_axis = n.shape(x), dict(zip(axes, parts, strict=True))
        wanted = [by_axis.get(a, (None, shape[a])) for a in range(2, rank)]
        if all(scale is None for scale, _ in wanted):
            return n.call(F.interpolate, x, [size for _, size in wanted], None, name, corners, antialias=antialias)
        factors = [1.0 if scale is None else scale for scale, _ in wanted]
        return n.call(F.interpolate, x, None, factors, name, corners, antialias=antialias)
    if mode != "linear" or antialias:
        n.refuse(f"resizes by '{mode}' and '{rule}', which PyTorch does not have")
    for axis, (scale, size) in zip(axes, parts, strict=True):
        length, count = _fixed(n, x, axis, size)
        matrix = Known(f"{n.node.name}/weights", _linear_matrix(_coordinates(n, length, scale, count), length))
        turned = n.call(F.linear, n.call(torch.movedim, x, axis, rank - 1), matrix)
        x = n.call(torch.movedim, turned, rank - 1, axis)
    return x


def _linear_matrix(x: np.ndarray, length: int) -> np.ndarray:
    """Return the share of each element of the input, [outputs, inputs]; beyond the ends the last element stays."""
    x = np.clip(x, 0, length - 1)
    low = np.floor(x).astype(int)
    high = np.minimum(low + 1, length - 1)
    matrix = np.zeros((len(x), length), np.float32)
    rows = np.arange(len(x))
    np.add.at(matrix, (rows, low), (1 - (x - low)).astype(np.float32))
    np.add.at(matrix, (rows, high), (x - low).astype(np.float32))
    return matrix


ROWS: Rows = {"Resize": _resize, "Upsample": _resize}

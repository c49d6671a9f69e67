"""The factor of attention's scores: wherever a model multiplies by it, it becomes the softmax's own."""

from __future__ import annotations

import math
from dataclasses import replace

from ..graph import Op
from .sheet import Sheet

#: Operators that a factor may be moved across.
_MOVES = ("transpose", "reshape", "move", "mask")


def join_factors(sheet: Sheet) -> None:
    """Move the numbers that the scores, the queries or the keys are multiplied by into the softmax."""
    for op in sheet:
        if op.kind != "softmax" or not sheet.admits(op):
            continue
        behind = _factors(sheet, op.inputs[0])
        product = sheet.writers.get(behind[-1][1] if behind else op.inputs[0])
        if product is None or product.kind != "matmul" or not _is_private(sheet, product.output):
            continue
        # A factor of queries that are the keys, too, stands here twice, and counts twice.
        found = [*behind, *(factor for tensor in product.inputs for factor in _factors(sheet, tensor))]
        known = [(factor, source, number) for factor, source in found if (number := _number(sheet, factor) or 0.0) > 0.0]
        for factor, source, _ in known:
            if factor.name in sheet.ops:
                sheet.bypass(factor, source)
        if known:
            joined = math.prod(number for *_, number in known)
            softmax = sheet.ops[op.name]
            sheet.replace(softmax, replace(softmax, attrs={"beta": op.attrs["beta"] * joined}))
            for mask in _masks(sheet, op.inputs[0]):
                sheet.replace(mask, replace(mask, attrs={"reach": mask.attrs["reach"] / joined}))


def _factors(sheet: Sheet, tensor: str) -> list[tuple[Op, str]]:
    """Return the multiplications by a number that lead to a tensor, the last one first, and what each multiplies."""
    found: list[tuple[Op, str]] = []
    while (op := sheet.writers.get(tensor)) is not None and _is_private(sheet, tensor):
        # A hidden score stays one, whatever it is multiplied by.
        sources = [*op.inputs[:1]] if op.kind == "mask" else sheet.sources(op)
        if len(sources) != 1 or (op.kind not in _MOVES and _number(sheet, op) is None):
            break
        (tensor,) = sources
        if op.kind not in _MOVES:
            found.append((op, tensor))
    return found


def _masks(sheet: Sheet, tensor: str) -> list[Op]:
    """Return the masks that lead to a tensor, whose scores have another unit where a factor has become the softmax's."""
    found: list[Op] = []
    while (op := sheet.writers.get(tensor)) is not None and op.kind in _MOVES:
        found += [op] if op.kind == "mask" else []
        tensor = op.inputs[0]
    return found


def _number(sheet: Sheet, op: Op) -> float | None:
    """Return the number that an operator multiplies one tensor by; None for any other operator."""
    numbers, sources = [sheet.number(t) for t in op.inputs if sheet.is_constant(t)], sheet.sources(op)
    if op.kind != "mul" or len(numbers) != 1 or len(sources) != 1 or not sheet.admits(op):
        return None
    return numbers[0] if sheet.tensors[op.output].shape == sheet.tensors[sources[0]].shape else None


def _is_private(sheet: Sheet, tensor: str) -> bool:
    return tensor not in sheet.graph.outputs and len(sheet.readers.get(tensor, ())) == 1

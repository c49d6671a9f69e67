"""The factor of attention's scores: wherever a model multiplies by it, it becomes the softmax's own."""

from __future__ import annotations

from dataclasses import replace

from ..graph import Op
from .sheet import Sheet

#: Operators that a factor may be moved across.
_MOVES = ("transpose", "reshape", "move")


def join_factors(sheet: Sheet) -> None:
    """Move the numbers that the scores, the queries or the keys are multiplied by into the softmax."""
    for op in sheet:
        if op.kind != "softmax" or not sheet.admits(op):
            continue
        behind = _factors(sheet, op.inputs[0])
        product = sheet.writers.get(behind[-1][1] if behind else op.inputs[0])
        if product is None or product.kind != "matmul" or not _is_private(sheet, product.output):
            continue
        found = [*behind, *(factor for tensor in product.inputs for factor in _factors(sheet, tensor))]
        for factor, source in found:
            number = _number(sheet, factor)
            if number is not None and number > 0:
                softmax = sheet.ops[op.name]
                sheet.bypass(factor, source)
                softmax = sheet.ops[op.name]
                sheet.replace(softmax, replace(softmax, attrs={"beta": softmax.attrs["beta"] * number}))


def _factors(sheet: Sheet, tensor: str) -> list[tuple[Op, str]]:
    """Return the multiplications by a number that lead to a tensor, the last one first, and what each multiplies."""
    found: list[tuple[Op, str]] = []
    while (op := sheet.writers.get(tensor)) is not None and _is_private(sheet, tensor):
        sources = sheet.sources(op)
        if len(sources) != 1 or (op.kind not in _MOVES and _number(sheet, op) is None):
            break
        (tensor,) = sources
        if op.kind not in _MOVES:
            found.append((op, tensor))
    return found


def _number(sheet: Sheet, op: Op) -> float | None:
    """Return the number that an operator multiplies one tensor by; None for any other operator."""
    numbers = [sheet.number(t) for t in op.inputs if sheet.is_constant(t)]
    same = (
        len(op.inputs) == 2 and sheet.tensors[op.output].shape == sheet.tensors[sheet.sources(op)[0]].shape
        if sheet.sources(op)
        else False
    )
    return numbers[0] if op.kind == "mul" and len(numbers) == 1 and same and sheet.admits(op) else None


def _is_private(sheet: Sheet, tensor: str) -> bool:
    return tensor not in sheet.graph.outputs and len(sheet.readers.get(tensor, ())) == 1

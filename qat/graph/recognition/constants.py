"""Operators on constants that are not trained, computed beforehand."""

from __future__ import annotations

import numpy as np

from ..graph import Op
from ..kinds import KINDS
from .functions import meaning
from .sheet import Region, Sheet
from .values import BINARY, values_of


def lay_constants(sheet: Sheet) -> None:
    """Give each constant that is reshaped its last shape."""
    for op in sheet:
        writer = sheet.writers.get(op.inputs[0]) if op.kind == "reshape" else None
        if writer is not None and writer.kind == "constant":
            shape = sheet.tensors[op.output].shape
            sheet.replace(op, Op(op.name, "constant", (), op.outputs, writer.params, {"shape": shape}, op.scope))


def compute_constants(sheet: Sheet) -> None:
    """Put a constant in the place of each elementwise operator on fixed constants, and a product in that of a division by one."""
    for op in sheet:
        if not op.inputs or not (meaning(op) in BINARY or KINDS[op.kind].function):
            continue
        arrays = {tensor: value for tensor in op.inputs if (value := sheet.array(tensor)) is not None}
        if len(arrays) == len(set(op.inputs)):
            value = values_of(sheet, Region("", (op,)), next(iter(arrays.values())), arrays)
            sheet.replace(op, _constant(sheet, op, op.output, value))
        elif meaning(op) == "div" and op.inputs[1] in arrays and arrays[op.inputs[1]].all():
            value = 1.0 / arrays[op.inputs[1]]
            factor = _constant(sheet, op, sheet.add_tensor(f"{op.output}_factor", value.shape), value)
            sheet.replace(op, factor, Op(op.name, "mul", (op.inputs[0], factor.output), op.outputs, scope=op.scope))


def _constant(sheet: Sheet, op: Op, tensor: str, value: np.ndarray) -> Op:
    name = sheet.add_param(f"{tensor}.value", value, fixed=True)
    return Op(tensor, "constant", (), (tensor,), {"value": name}, {}, op.scope)

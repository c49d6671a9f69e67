"""The values of a region's operators in float64, reductions among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qat.arithmetic import lookup
from qat.arithmetic.expressions import ARITHMETIC

from ..graph import Op
from ..kinds import KINDS
from .functions import meaning
from .sheet import Region, Sheet


def _moments(x: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(x.var(attrs["axes"], ddof=attrs["correction"], keepdims=attrs["keepdims"]))


#: Reductions over the axes of ``attrs``, by what the operator computes.
REDUCTIONS: dict[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]] = {
    "mean": lambda x, attrs: x.mean(attrs["axes"], keepdims=attrs["keepdims"]),
    "maximum_over": lambda x, attrs: x.max(attrs["axes"], keepdims=attrs["keepdims"]),
    "variance": _moments,
    "deviation": lambda x, attrs: np.sqrt(_moments(x, attrs)),
    "norm": lambda x, attrs: np.sqrt(np.square(x).sum(attrs["axes"], keepdims=attrs["keepdims"])),
}

#: Operators of two operands, element by element.
BINARY: Mapping[str, Callable[..., Any]] = {**ARITHMETIC, "minimum": np.minimum, "maximum": np.maximum}


def is_reduction(op: Op) -> bool:
    """Whether an operator is one of :data:`REDUCTIONS`."""
    return reduction(op) in REDUCTIONS


def reduction(op: Op) -> str:
    """Return what an operator computes over axes; a data movement may be a maximum."""
    return str(op.attrs.get("computes", op.kind)) if op.kind == "move" else meaning(op)


def has_values(sheet: Sheet, op: Op, arrays: bool = False) -> bool:
    """Whether :func:`values_of` knows an operator of float32 tensors and numbers, or ``arrays``."""
    kind = KINDS[op.kind]
    shaped = is_spread(op) or (op.kind == "reshape" and not op.attrs.get("folds"))  # a fold of the batch mixes samples
    known = bool(is_reduction(op) or meaning(op) in BINARY or kind.function or kind.bounds or shaped)
    numbers = arrays or all(sheet.number(t) is not None for t in op.inputs if sheet.is_constant(t))
    return known and numbers and sheet.admits(op) and sheet.tensors[op.output].dtype == "float32"


def is_spread(op: Op) -> bool:
    """Whether an operator repeats a tensor along axes of size 1, as every sum or product does by itself."""
    return op.kind == "move" and op.attrs.get("computes") == "spread"


def values_of(sheet: Sheet, region: Region, x: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the root's values in float64, for values of the base and of the constants that are no numbers."""
    values: dict[str, np.ndarray] = {region.base: x, **arrays}
    for op in region.ops:
        operands = [values[t] if t in values else np.asarray(sheet.number(t)) for t in op.inputs]
        name, kind = reduction(op), KINDS[op.kind]
        if name in REDUCTIONS:
            made = REDUCTIONS[name](operands[0], op.attrs)
        elif name in BINARY:
            made = BINARY[name](*operands)
        elif op.kind == "reshape":
            made = operands[0].reshape(len(x), *op.attrs["shape"][1:])
        elif is_spread(op):
            made = operands[0]
        else:
            made = np.clip(operands[0], *kind.bounds) if kind.bounds else lookup.real(op.kind, op.attrs, operands[0])
        values[op.output] = made
    return values[region.ops[-1].output]

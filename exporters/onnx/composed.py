"""Composed functions as float operators: the nodes of their steps, and how far float32 may lead their results astray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qat.arithmetic import lookup
from qat.arithmetic.expressions import Steps
from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .writer import Writer

#: The operators of two operands.
_BINARY = {"add": "Add", "mul": "Mul", "div": "Div", "minimum": "Min", "maximum": "Max"}
#: The rounding of one float32 operator, twice over.
_ROUNDING = 2.0**-23

#: The functions whose float operators are a product, a sum and limits: no more than four roundings.
_ARITHMETIC = ("hard_sigmoid", "hard_swish", "leaky_relu", "abs", "neg", "square", "clamp")

#: From a kind, its arguments, the inputs and the exact results, the largest error of a float operator; None where there is none.
ErrorOf = Callable[[str, dict[str, object], np.ndarray, np.ndarray], np.ndarray | None]


def attributes_of(kind: str, arguments: list[object]) -> dict[str, object]:
    """Return the attributes of a step by name."""
    return dict(zip(lookup.ARGUMENTS[kind], arguments, strict=True))


def largest_error(steps: Steps, x: np.ndarray, error_of: ErrorOf) -> np.ndarray | None:
    """Return a bound on the error of each result that float32 computes; None where a step has no float operator.

    The error of each step is its own, and that of its operands as far as the step passes it on.

    Args:
        steps: of the function.
        x: the exact inputs.
        error_of: the error of a function's float operator.
    """
    values: dict[str, tuple[np.ndarray, np.ndarray]] = {"x": (x, _ROUNDING * np.abs(x))}
    made = values["x"]
    for index, (kind, *operands) in enumerate(steps):
        if kind in _BINARY:
            (a, da), (b, db) = (values[o] if isinstance(o, str) else (np.full_like(x, o), np.zeros_like(x)) for o in operands)
            made = _of_two(kind, a, da, b, db)
        else:
            found = _of_one(kind, operands[1:], *values[operands[0]], error_of) if kind in lookup.ARGUMENTS else None
            if found is None:
                return None
            made = found
        values[f"#{index}"] = made
    return made[1]


def _of_two(kind: str, a: np.ndarray, da: np.ndarray, b: np.ndarray, db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if kind in ("minimum", "maximum"):
        return (np.minimum if kind == "minimum" else np.maximum)(a, b), np.maximum(da, db)
    if kind == "add":
        y, error = a + b, da + db
    elif kind == "mul":
        y, error = a * b, np.abs(a) * db + np.abs(b) * da + da * db
    else:
        y, least = a / b, np.abs(b) - db
        error = np.where(least > 0, (da + np.abs(y) * db) / np.where(least > 0, least, 1.0), np.inf)
    return y, error + _ROUNDING * np.abs(y)


def _of_one(
    kind: str, arguments: list[object], a: np.ndarray, da: np.ndarray, error_of: ErrorOf
) -> tuple[np.ndarray, np.ndarray] | None:
    attrs = attributes_of(kind, arguments)
    y = lookup.real(kind, attrs, a)
    own = error_of(kind, attrs, a, y)
    if own is None:
        return None
    if kind in _ARITHMETIC:
        own = 4.0 * _ROUNDING * np.maximum(np.abs(a), np.abs(y))
    passed = np.maximum(*(np.abs(lookup.real(kind, attrs, a + side) - y) for side in (da, -da)))
    return y, own + 2.0 * passed


def write_steps(
    writer: Writer, instruction: Instruction, x: str, y: str, write: Callable[[Writer, Instruction, str, str], str]
) -> str:
    """Write the steps as nodes, each function by ``write``; return the output's name."""
    values: dict[str, str] = {"x": x}
    steps = instruction.attrs["steps"]
    for index, (kind, *operands) in enumerate(steps):
        output = y if index == len(steps) - 1 else f"{y}/{index}"
        if kind in _BINARY:
            names = [
                values[o] if isinstance(o, str) else writer.constant(f"{instruction.name}.{index}.{place}", f32(o))
                for place, o in enumerate(operands)
            ]
            writer.node(_BINARY[kind], names, output, f"{instruction.name}/{index}")
        else:
            attrs = attributes_of(kind, operands[1:])
            step = replace(instruction, kind=kind, attrs=attrs, name=f"{instruction.name}/{index}")
            write(writer, step, values[operands[0]], output)
        values[f"#{index}"] = output
    return y

"""Functions of one tensor that are written in several operators: the steps in order, and their values for an input.

A step is ``(name, operand, ...)``: a function, a sum, a product or another operator, element by element. An operand is ``"x"``,
the input, ``"#i"``, the result of step ``i``, or a number; a function's arguments stand behind its operand. The last step gives
the result: ``(("add", "x", 3.0), ("clamp", "#0", 0.0, 6.0), ("mul", "x", "#1"))``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Steps = tuple[tuple[Any, ...], ...]
Array = TypeVar("Array")

#: The operators of two operands that Python has, for the arrays of NumPy and of every framework.
ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {"add": operator.add, "mul": operator.mul, "div": operator.truediv}


def evaluate(steps: Steps, x: Array, functions: Mapping[str, Callable[..., Any]]) -> Array:
    """Return the result of the last step for an input.

    Args:
        steps: at least one.
        x: an array of NumPy or of a framework.
        functions: each function that the steps name.

    Examples:
        >>> evaluate((("add", "x", 3.0), ("mul", "x", "#0")), 2.0, ARITHMETIC)
        10.0
    """
    values: dict[str, Any] = {"x": x}
    for index, (name, *operands) in enumerate(steps):
        values[f"#{index}"] = functions[name](*(values[o] if isinstance(o, str) else o for o in operands))
    result: Array = values[f"#{len(steps) - 1}"]
    return result

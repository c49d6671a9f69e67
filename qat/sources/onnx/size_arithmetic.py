"""Arithmetic on the sizes of free axes: the operators between a ``Shape`` and the ``Reshape`` or ``Expand`` that reads it.

Each works on arrays of numbers and sizes, so that no tensor arises that a shape would depend on.
Source: https://onnx.ai/onnx/operators/, with integers rounded towards zero; sizes are never negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .operator import Known, Operator, Size

Arrays = list[np.ndarray]


def known_result(n: Operator) -> list[np.ndarray] | None:
    """Return the outputs of an operator that computes with sizes alone; None where it is no such operator."""
    if n.node.domain == "" and n.node.type in ("Shape", "Size") and n.get(0) is not None:
        return [_of_shape(n)]
    rule = _RULES.get(n.node.type) if n.node.domain == "" else None
    if rule is None or not all(isinstance(i, Known) for i in n.inputs):
        return None
    if n.node.type in _SHAPED and any(isinstance(i, Known) and i.symbolic for i in n.inputs[1:]):
        return None  # constants take a shape of free sizes: a tensor
    found = rule(n, [i.array for i in n.inputs if isinstance(i, Known)])
    return [_plain(array) for array in (found if isinstance(found, list) else [found])]


def _plain(found: Any) -> np.ndarray:
    """Return numbers as an array of integers where they are; NumPy takes the only element of an array for no array."""
    array = np.empty((), object)
    array[()] = found
    array = found if isinstance(found, np.ndarray) else array
    if array.dtype != object or any(isinstance(item, Size) for item in array.reshape(-1)):
        return array
    return array.astype(np.float32 if any(isinstance(item, float) for item in array.reshape(-1)) else np.int64)


def _of_shape(n: Operator) -> np.ndarray:
    sizes = n.shape(n[0])
    if n.node.type == "Shape":
        sizes = sizes[n.attr("start", 0) : n.attr("end", len(sizes))]
        return _array(sizes, (len(sizes),))
    return _array([math.prod(sizes)], ())


def _array(items: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of integers, or of ``dtype`` object where one is a size."""
    items = list(items)
    plain = not any(isinstance(item, Size) for item in items)
    array = np.empty(len(items), np.int64 if plain else object)
    array[:] = items
    return array.reshape(shape)


def _elementwise(function: Callable[..., Any]) -> Callable[[Operator, Arrays], np.ndarray]:
    def rule(n: Operator, arrays: Arrays) -> np.ndarray:
        broadcast = np.broadcast_arrays(*(a.astype(object) for a in arrays))
        items = [function(*values) for values in zip(*(a.reshape(-1) for a in broadcast), strict=True)]
        if any(isinstance(item, (Size, float)) for item in items):
            result = np.empty(len(items), object)
            result[:] = items
            return result.reshape(broadcast[0].shape)
        return np.array(items).reshape(broadcast[0].shape)

    return rule


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float) or _is_real(a) or _is_real(b):
        return a / b
    return a // b if isinstance(a, Size) or isinstance(b, Size) else int(a / b)


def _is_real(value: Any) -> bool:
    return isinstance(value, Size) and not value.is_whole


def _rounded(function: Callable[[float], int]) -> Callable[[Any], Any]:
    return lambda a: a.rounded(function) if isinstance(a, Size) else float(function(a))


def _cast(n: Operator, arrays: Arrays) -> np.ndarray:
    """A size stays one as a float: it has no fraction. A quotient is rounded down where it becomes an integer."""
    real = n.attr("to") in (1, 10, 11, 16)
    function = (lambda a: a) if real else (lambda a: a.rounded(math.floor) if isinstance(a, Size) else int(a))
    return _elementwise(function)(n, arrays[:1])


def _gather(n: Operator, arrays: Arrays) -> np.ndarray:
    return np.take(arrays[0], arrays[1].astype(np.int64), axis=n.attr("axis", 0))


def _slice(n: Operator, arrays: Arrays) -> np.ndarray:
    starts, ends = n.ints("starts", 1), n.ints("ends", 2)
    assert starts is not None and ends is not None
    axes, steps = n.ints("axes", 3, range(len(starts))), n.ints("steps", 4, [1] * len(starts))
    index = [slice(None)] * arrays[0].ndim
    for axis, start, end, step in zip(axes or (), starts, ends, steps or (), strict=True):
        index[axis] = slice(start, None if step < 0 and end < -arrays[0].shape[axis] else end, step)
    return arrays[0][tuple(index)]


def _squeeze(n: Operator, arrays: Arrays) -> np.ndarray:
    axes = n.ints("axes", 1)
    return np.squeeze(arrays[0], axis=None if axes is None else tuple(axes))


def _unsqueeze(n: Operator, arrays: Arrays) -> np.ndarray:
    return np.expand_dims(arrays[0], tuple(n.ints("axes", 1) or ()))


def _split(n: Operator, arrays: Arrays) -> Arrays:
    axis, count = n.attr("axis", 0), len(n.node.outputs)
    parts = n.ints("split", 1)
    return np.split(arrays[0], np.cumsum(parts)[:-1] if parts else count, axis)


def _where(n: Operator, arrays: Arrays) -> np.ndarray:
    return _elementwise(lambda c, a, b: a if c else b)(n, arrays)


def _expand(n: Operator, arrays: Arrays) -> np.ndarray:
    return np.array(np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, tuple(arrays[1].astype(np.int64)))))


def _product(n: Operator, arrays: Arrays) -> np.ndarray:
    return _array([math.prod(arrays[0].reshape(-1))], (1,) * arrays[0].ndim if n.attr("keepdims", 1) else ())


def _larger(a: Any, b: Any) -> Any:
    return a.larger(b) if isinstance(a, Size) else b.larger(a) if isinstance(b, Size) else max(a, b)


def _smaller(a: Any, b: Any) -> Any:
    return a.smaller(b) if isinstance(a, Size) else b.smaller(a) if isinstance(b, Size) else min(a, b)


#: Whose other inputs are a shape or places.
_SHAPED = ("Expand", "Gather", "Reshape", "Slice")
_RULES: Mapping[str, Callable[[Operator, Arrays], np.ndarray | Arrays]] = {
    "Identity": lambda n, a: a[0],
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda n, a: np.concatenate(a, axis=n.attr("axis", 0)),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Split": _split,
    "Reshape": lambda n, a: a[0].reshape(tuple(a[1].astype(np.int64))),
    "Expand": _expand,
    "Where": _where,
    "ReduceProd": _product,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_quotient),
    "Mod": _elementwise(lambda a, b: a % b),
    "Neg": _elementwise(lambda a: -a),
    "Floor": _elementwise(_rounded(math.floor)),
    "Ceil": _elementwise(_rounded(math.ceil)),
    "Max": _elementwise(_larger),
    "Min": _elementwise(_smaller),
    "Equal": _elementwise(lambda a, b: a == b),
    "Greater": _elementwise(lambda a, b: a > b),
    "Less": _elementwise(lambda a, b: a < b),
    "GreaterOrEqual": _elementwise(lambda a, b: a >= b),
    "LessOrEqual": _elementwise(lambda a, b: a <= b),
    "Not": _elementwise(lambda a: not a),
    "And": _elementwise(lambda a, b: bool(a and b)),
    "Or": _elementwise(lambda a, b: bool(a or b)),
}

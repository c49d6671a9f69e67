"""The numbers that a tensor may hold, where those are few: 0 and 1 of a mask, what becomes of them, and fixed arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from qat.arithmetic.masks import FAR, only_hides
from qat.graph.graph import Op

from .batch_operations import PerSample
from .builder import Builder
from .layer_calls import fill

#: More different numbers than these are not followed.
_FEW = 8
_TRUTH = frozenset((0.0, 1.0))
_SHAPES = ("ExpandDims", "Squeeze", "GetItem", "BroadcastTo", "SpreadOverBatch", "Tile", "Repeat")
_OF_TWO: dict[str, Callable[[float, float], float]] = {
    "add": operator.add, "mul": operator.mul, "minimum": min, "maximum": max,
}  # fmt: skip
_OF_ONE: dict[str, Callable[[float], float]] = {
    "neg": operator.neg, "log": lambda v: math.log(v) if v > 0 else -math.inf, "relu": lambda v: max(v, 0.0),
}  # fmt: skip


class Numbers:
    """Says which numbers the tensors of a graph, as far as it is built, may hold."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.writers = {name: op for op in b.ops for name in op.outputs}
        self._found: dict[tuple[str, bool], frozenset[float]] = {}

    def only_hide(self, tensor: str) -> bool:
        """Whether the numbers are added to scores only to hide them."""
        return only_hides(self.of(tensor))

    def constant(self, tensor: str) -> np.ndarray | None:
        """Return the value of a tensor that is fixed, and not trained; None of any other."""
        name = self.b.parameter(tensor)
        return self.b.params[name] if name in self.b.frozen else None

    def of_operand(self, value: Any) -> frozenset[float]:
        """Return the same of an operand of a call: a tensor by its name, a number or an array."""
        if isinstance(value, str):
            return self.of(value)
        if value is None or isinstance(value, PerSample):
            return frozenset()
        return _different(np.asarray(keras.ops.convert_to_numpy(value), np.float64))

    def of(self, tensor: str, far: bool = False) -> frozenset[float]:
        """Return the numbers that a tensor may hold; none where they are many.

        A float input of the model counts as 0 and 1 where a number multiplies it that only masks have (``far``).
        """
        if (tensor, far) not in self._found:
            found = self._of_tensor(tensor, far)
            self._found[tensor, far] = frozenset() if any(map(math.isnan, found)) or len(found) > _FEW else found
        return self._found[tensor, far]

    def _of_tensor(self, tensor: str, far: bool) -> frozenset[float]:
        op = self.writers.get(tensor)
        if op is None:
            return _TRUTH if far and self.b.specs[tensor].dtype == "float32" else frozenset()
        if op.kind == "constant":
            value = self.constant(tensor)
            return frozenset() if value is None else _different(value)
        return self._of(op, far)

    def _of(self, op: Op, far: bool) -> frozenset[float]:
        target = op.attrs.get("target")
        if target == "Cast":
            whole = self.b.specs[op.inputs[0]].dtype in ("bool", "int32", "int64", "uint8", "int8")
            return _TRUTH if whole else self.of(op.inputs[0], far)
        if target in _SHAPES or op.kind in ("reshape", "transpose"):
            return self.of(op.inputs[0], far)
        if target == "Where":
            first, second = (self.of_operand(branch) for branch in choice_of(self.b, op)[1:])
            return first | second if first and second else frozenset()
        if op.kind == "clamp":
            low, high = (op.attrs[end] for end in ("low", "high"))
            low, high = -math.inf if low is None else low, math.inf if high is None else high
            return frozenset(min(max(n, low), high) for n in self.of(op.inputs[0], far or low <= -FAR))
        if op.kind in _OF_ONE:
            return frozenset(_OF_ONE[op.kind](n) for n in self.of(op.inputs[0], far))
        if op.kind not in _OF_TWO or len(op.inputs) != 2:
            return frozenset()
        far |= op.kind == "mul" and any(abs(n) >= FAR for name in op.inputs for n in self.of(name))
        first, second = (self.of(name, far) for name in op.inputs)
        return frozenset(_OF_TWO[op.kind](x, y) for x in first for y in second)


def choice_of(b: Builder, op: Op) -> Sequence[Any]:
    """Return the condition and the two branches of a choice: names of tensors, numbers and arrays."""
    args, kwargs = fill(b.arguments[op.name], [*op.inputs])
    return [*args, *(kwargs[name] for name in ("condition", "x1", "x2")[len(args) :])]


def _different(value: np.ndarray) -> frozenset[float]:
    found = np.unique(value)
    return frozenset(map(float, found)) if len(found) <= _FEW else frozenset()

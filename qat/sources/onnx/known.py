"""What is known of a file's tensors before any input is: constants, and arithmetic on sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import SymFloat, SymInt

from qat.sources.module_writer import ModuleWriter, Value


@dataclass(frozen=True, eq=False)
class Known:
    """A tensor whose numbers are known: a constant, or sizes, some of which may be those of free axes.

    Attributes:
        name: of the tensor in the file that the numbers come from.
        array: the numbers; of dtype ``object``, with ``int`` and :class:`Size`, where one is the size of a free axis.
        trained: whether it is a weight, which training changes.
    """

    name: str
    array: np.ndarray
    trained: bool = False

    @property
    def symbolic(self) -> bool:
        """Whether one of the numbers is the size of a free axis."""
        return self.array.dtype == object


#: What an operator reads: a tensor that the inputs determine, or one that is known.
Operand: TypeAlias = Value | Known


class Size:
    """The size of a free axis, or a number computed from it. Each operation writes itself into the module.

    A comparison is decided for the size that the module is written with; sizes of free axes are at least two.
    """

    def __init__(self, writer: ModuleWriter, number: SymInt | SymFloat, write: Callable[[], Value | int]) -> None:
        self.writer, self.number, self._write = writer, number, write

    @cached_property
    def value(self) -> Value | int:
        """The size as the argument of a call; it is written where one reads it."""
        return self._write()

    @property
    def is_whole(self) -> bool:
        """Whether it is an integer, not a quotient."""
        return isinstance(self.number, SymInt)

    def _with(self, function: Callable[..., object], *operands: Size | float) -> Size | int:
        number = function(*(o.number if isinstance(o, Size) else o for o in operands))

        def write() -> Value | int:
            return self.writer.arithmetic(function, *(o.value if isinstance(o, Size) else o for o in operands))

        return sized(self.writer, number, write)

    def __add__(self, other: Size | int) -> Size | int:
        return self if _is(other, 0) else self._with(operator.add, self, other)

    def __radd__(self, other: int) -> Size | int:
        return self + other

    def __sub__(self, other: Size | int) -> Size | int:
        return self if _is(other, 0) else self._with(operator.sub, self, other)

    def __rsub__(self, other: int) -> Size | int:
        return self._with(operator.sub, other, self)

    def __mul__(self, other: Size | float) -> Size | int:
        return self if _is(other, 1) else self._with(operator.mul, self, whole(other))

    def __rmul__(self, other: float) -> Size | int:
        return self * other

    def __floordiv__(self, other: Size | int) -> Size | int:
        return self if _is(other, 1) else self._with(operator.floordiv, self, other)

    def __rfloordiv__(self, other: int) -> Size | int:
        return self._with(operator.floordiv, other, self)

    def __truediv__(self, other: Size | float) -> Size | int:
        return self if _is(other, 1) else self._with(operator.truediv, self, other)

    def __rtruediv__(self, other: float) -> Size | int:
        return self._with(operator.truediv, other, self)

    def __mod__(self, other: Size | int) -> Size | int:
        return self._with(operator.mod, self, other)

    def __neg__(self) -> Size | int:
        return self._with(operator.neg, self)

    def rounded(self, function: Callable[[float], int]) -> Size | int:
        """Return the integer that ``math.floor`` or ``math.ceil`` makes of a quotient."""
        return self if self.is_whole else self._with(function, self)

    def larger(self, other: Size | int) -> Size | int:
        """Return the larger one of two sizes."""
        return self._with(torch.sym_max, self, other)

    def smaller(self, other: Size | int) -> Size | int:
        """Return the smaller one of two sizes."""
        return self._with(torch.sym_min, self, other)

    def same_symbol(self, other: object) -> bool:
        """Whether two sizes are computed from the inputs' in the same way."""
        return isinstance(other, Size) and bool(self.number.node.expr == other.number.node.expr)

    def __eq__(self, other: object) -> bool:
        return bool(self.number == (other.number if isinstance(other, Size) else other))

    def __lt__(self, other: Size | int) -> bool:
        return bool(self.number < (other.number if isinstance(other, Size) else other))

    def __gt__(self, other: Size | int) -> bool:
        return bool(self.number > (other.number if isinstance(other, Size) else other))

    def __le__(self, other: Size | int) -> bool:
        return not self > other

    def __ge__(self, other: Size | int) -> bool:
        return not self < other

    def __hash__(self) -> int:
        return hash(str(self.number))

    def __repr__(self) -> str:
        return f"Size({self.number})"


def sized(writer: ModuleWriter, number: object, write: Callable[[], Value | int]) -> Size | int:
    """Return a size; one that is the same for all inputs as a number."""
    if isinstance(number, SymInt):
        fixed = number.node.maybe_as_int()
        return Size(writer, number, write) if fixed is None else int(fixed)
    return Size(writer, number, write) if isinstance(number, SymFloat) else int(number)  # type: ignore[call-overload]


def size_of(writer: ModuleWriter, tensor: Value, axis: int) -> Size | int:
    """Return the size of a tensor along an axis."""
    return sized(writer, tensor.shape[axis], lambda: writer.size(tensor, axis))


def whole(number: Size | float) -> Size | float:
    """Return a float without a fraction as an integer: the product of a size with it is a size."""
    if isinstance(number, Size) or not math.isfinite(number) or int(number) != number:
        return number
    return int(number)


def _is(number: object, value: int) -> bool:
    return not isinstance(number, Size) and number == value


def expression(size: Size | int) -> Any:
    """Return a size in terms of the inputs' sizes, by which two of them are compared without a decision on any."""
    return size.number.node.expr if isinstance(size, Size) else size

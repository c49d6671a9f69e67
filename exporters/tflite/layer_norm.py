"""Norms in a ``.tflite``, of float operators whose results have the same bits on every machine.

The operators are those of :mod:`qat.arithmetic.layer_norm`: sums of integers, and single float32 operators that IEEE 754 rounds.
Floats hold the integers, each of them up to 2^24; the sum of squares may pass that, and is one of int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from qat.arithmetic.grid import f32
from qat.arithmetic.layer_norm import centred_square, scaled_epsilon, scaled_least, summed_in_float, type_of_sums
from qat.exporters.channel_groups import ChannelGroups
from qat.program.program import Instruction

from .writer import Op, Writer

#: XNNPACK takes tensors of six axes at most (XNN_MAX_TENSOR_DIMS); an operator on more runs in TFLite's own kernel.
_BEYOND_XNNPACK = 7


def write_layer_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the sums of integers over the last axis, and from them the mean, the variance and the result."""
    _write(_Steps(writer, instruction))


def write_group_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the same for groups of channels."""
    _write(_Groups(writer, instruction))


def _write(w: _Steps) -> None:
    weight, bias, attrs = w.instruction.weight, w.instruction.bias, w.instruction.attrs
    assert weight is not None and bias is not None
    x = w.centered()
    q = w.add("integers", x, w.number("origin", w.encoding.zero_point))
    mean = w.div("mean", w.total(q), w.count, single=True)
    c = w.rounded("center", mean, single=True)
    d = w.sub("distance", q, w.spread(c))
    rest = w.sub("rest", mean, c, single=True)
    squares = w.squares(d, centred_square(w.encoding))
    variance = w.sub("variance", squares, w.mul("rest_squared", rest, rest, single=True), single=True)
    epsilon = w.number("epsilon", scaled_epsilon(attrs["epsilon"], float(w.encoding.scale)))
    deviation = w.root("deviation", w.add("regular", variance, epsilon, single=True))
    x = x if attrs.get("uncentered", False) else w.sub("centered", q, w.spread(mean))
    y = w.mul("scaled", w.div("normalized", x, w.spread(deviation)), w.number("gamma", w.along(weight)))
    w.quantize(w.add("shifted", y, w.number("beta", w.along(bias))))


def write_rms_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the sum of squared integers, and from it the root and the result."""
    assert instruction.weight is not None
    w = _Steps(writer, instruction)
    q, scale = w.centered(), float(w.encoding.scale)
    farthest = max(w.encoding.qmax - w.encoding.zero_point, w.encoding.zero_point - w.encoding.qmin)
    epsilon = w.number("epsilon", scaled_epsilon(instruction.attrs["epsilon"], scale))
    root = w.root("root", w.add("regular", w.squares(q, farthest**2), epsilon, single=True))
    least = w.number("least", scaled_least(instruction.attrs["least"], scale))
    root = w.operator("limited", Op.MAXIMUM, [root, least], True, "MaximumMinimumOptions")
    w.quantize(w.mul("scaled", w.div("normalized", q, root), w.number("gamma", instruction.weight)))


class _Steps:
    """Writes the operators of one instruction, whose rows lie along the last axis. A ``single`` one has a value for each row."""

    def __init__(self, writer: Writer, instruction: Instruction) -> None:
        self.writer, self.instruction = writer, instruction
        self.encoding = writer.program.encoding_of(instruction.inputs[0])
        self.shape = writer.program.values[instruction.inputs[0]].shape
        self.rows, self.terms = self.of_rows()
        self.count = self.number("count", self.terms)
        self.axes = writer.constant(f"{instruction.name}.axes", [len(self.rows) - 1])

    def of_rows(self) -> tuple[Sequence[int | None], int]:
        """Return the shape of a number of each row, and how many integers a row has."""
        return (*self.shape[:-1], 1), self.shape[-1] or 1

    def number(self, name: str, value: npt.ArrayLike) -> str:
        """Add numbers of float32."""
        data = np.asarray(value, f32)
        return self.writer.add_tensor(f"{self.instruction.name}.{name}", data.shape, "float32", data=data)

    def operator(
        self,
        name: str,
        code: int,
        inputs: Sequence[str],
        single: bool,
        options: str = "",
        dtype: str = "float32",
        **fields: object,
    ) -> str:
        """Add an operator, and return the name of its output."""
        output = self.writer.add_tensor(f"{self.instruction.name}/{name}", self.rows if single else self.shape, dtype)
        self.writer.operator(code, inputs, output, 1, options, **fields)
        return output

    def add(self, name: str, a: str, b: str, single: bool = False) -> str:
        """Add a sum."""
        return self.operator(name, Op.ADD, [a, b], single, "AddOptions")

    def sub(self, name: str, a: str, b: str, single: bool = False) -> str:
        """Add a difference."""
        return self.operator(name, Op.SUB, [a, b], single, "SubOptions")

    def mul(self, name: str, a: str, b: str, single: bool = False) -> str:
        """Add a product."""
        return self.operator(name, Op.MUL, [a, b], single, "MulOptions")

    def div(self, name: str, a: str, b: str, single: bool = False) -> str:
        """Add a quotient."""
        return self.operator(name, Op.DIV, [a, b], single, "DivOptions")

    def root(self, name: str, x: str) -> str:
        """Add a square root by TFLite's own kernel: XNNPACK's starts from an estimate on x86, and may miss the last bit."""
        rows = None if None in self.rows else prod(size or 1 for size in self.rows)
        of_root, wide = f"{self.instruction.name}/{name}", (rows, *[1] * (_BEYOND_XNNPACK - 1))
        spread = self.reshaped(f"{of_root}_in", x, wide)
        root = self.writer.add_tensor(f"{of_root}_out", wide, "float32")
        self.writer.operator(Op.SQRT, [spread], root, 1)
        return self.reshaped(of_root, root, self.rows)

    def reshaped(self, output: str, x: str, shape: Sequence[int | None], dtype: str = "float32") -> str:
        """Add a tensor of another shape, whose batch is free, and the other axes that are free in the input."""
        sizes = self.writer.sizes(output, shape, self.writer.tensor(self.instruction.inputs[0]))
        self.writer.operator(Op.RESHAPE, [x, sizes], self.writer.add_tensor(output, shape, dtype), 1, "ReshapeOptions")
        return output

    def rounded(self, name: str, x: str, single: bool = False) -> str:
        """Add a rounding, of halves to even."""
        return self.operator(name, Op.ROUND, [x], single)

    def total(self, q: str) -> str:
        """Add the sum of the integers of each row."""
        greatest = max(abs(self.encoding.qmin), abs(self.encoding.qmax))
        if summed_in_float([self.terms], greatest):
            return self.operator("total", Op.SUM, [q, self.axes], True, "ReducerOptions", keepDims=True)
        return self._in_integers("total", "integers_whole", q, type_of_sums(self.terms, greatest), "total_whole")

    def squares(self, d: str, mean: float) -> str:
        """Add the mean of the squares of integers, which is ``mean`` at most."""
        squared, dtype = self.mul("squared", d, d), type_of_sums(self.terms, mean)
        squares = self._in_integers("squares", "squared_whole", squared, dtype, "squares_whole")
        return self.div("square", squares, self.count, single=True)

    def _in_integers(self, name: str, whole: str, x: str, dtype: str, total: str) -> str:
        """Add a sum over the last axis that may pass 2^24, beyond which float32 does not hold every integer."""
        whole = self.operator(whole, Op.CAST, [x], False, "CastOptions", dtype)
        sums = self.operator(total, Op.SUM, [whole, self.axes], True, "ReducerOptions", dtype, keepDims=True)
        return self.operator(name, Op.CAST, [sums], True, "CastOptions")

    def spread(self, row: str) -> str:
        """Return a number of each row as the image reads it."""
        return row

    def along(self, parameter: np.ndarray) -> np.ndarray:
        """Return a parameter as the image reads it."""
        return parameter

    def centered(self) -> str:
        """Add the input's integers less their zero point: their real values times the inverse scale are near them."""
        real = self.writer.add_tensor(f"{self.instruction.name}/real", self.shape, "float32")
        self.writer.operator(
            Op.DEQUANTIZE, [self.writer.integer_tensor(self.instruction.inputs[0])], real, 2, "DequantizeOptions"
        )
        return self.rounded("whole", self.mul("units", real, self.number("per_unit", f32(1) / f32(self.encoding.scale))))

    def quantize(self, y: str) -> None:
        """Add the step to the output's integers."""
        output = self.writer.integer_tensor(self.instruction.outputs[0])
        self.writer.operator(Op.QUANTIZE, [y], output, 1, "QuantizeOptions")


class _Groups(_Steps):
    """The same for groups of channels: ``[batch, groups, 1]`` holds a number of each."""

    def of_rows(self) -> tuple[Sequence[int | None], int]:
        """Return the shape of a number of each group, and how many integers a group has."""
        self.grouping = ChannelGroups.of(self.shape, self.instruction.attrs)
        return (self.shape[0], self.grouping.groups, 1), self.grouping.terms

    def total(self, q: str) -> str:
        """Add the sum of the integers of each group."""
        greatest = max(abs(self.encoding.qmin), abs(self.encoding.qmax))
        return self._summed("total", q, greatest, greatest)

    def squares(self, d: str, mean: float) -> str:
        """Add the mean of the squares of integers, which is ``mean`` at most."""
        farthest = self.encoding.qmax - self.encoding.qmin
        return self.div("square", self._summed("squares", self.mul("squared", d, d), farthest**2, mean), self.count, single=True)

    def _summed(self, name: str, x: str, greatest: int, mean: float) -> str:
        """Add exact sums: in float32 as far as it holds every integer, then in integers; ``mean`` limits a group's mean."""
        first, then = self.grouping.summed_in_float(greatest)
        whole = self.grouping.passes_float(greatest)
        dtype = type_of_sums(self.terms, mean) if whole else "float32"
        shape = list(self.shape)
        if first:
            x = self._over(first, shape, x, f"{name}_real", "float32")
        if whole:
            x = self._tensor(f"{name}_whole", shape, dtype, Op.CAST, [x], "CastOptions")
        if then:
            x = self._over(then, shape, x, f"{name}_of_channels", dtype)
        grouped: list[int | None] = [self.shape[0], self.grouping.groups, self.grouping.channels]
        x = self.reshaped(f"{self.instruction.name}/{name}_grouped", x, grouped, dtype)
        if self.grouping.channels > 1:
            x = self._over([2], grouped, x, f"{name}_of_groups", dtype, self.axes)
        return self._tensor(f"{name}_rounded", grouped, "float32", Op.CAST, [x], "CastOptions") if whole else x

    def _over(self, axes: Sequence[int], shape: list[int | None], x: str, name: str, dtype: str, places: str = "") -> str:
        """Add a sum over axes, which the constant ``places`` may hold; ``shape`` becomes that of the result."""
        for a in axes:
            shape[a] = 1
        places = places or self.writer.constant(f"{self.instruction.name}.{name}.axes", axes)
        return self._tensor(name, shape, dtype, Op.SUM, [x, places], "ReducerOptions", keepDims=True)

    def _tensor(
        self, name: str, shape: Sequence[int | None], dtype: str, code: int, inputs: Sequence[str], options: str, **fields: object
    ) -> str:
        """Add an operator whose output has a shape of its own."""
        output = self.writer.add_tensor(f"{self.instruction.name}/{name}", shape, dtype)
        self.writer.operator(code, inputs, output, 1, options, **fields)
        return output

    def spread(self, row: str) -> str:
        """Return a number of each group as the image reads it: one for each of the channels, or for all."""
        name = row.removeprefix(f"{self.instruction.name}/")
        if self.grouping.repeats:
            groups, channels = self.grouping.groups, self.grouping.channels
            shape, ones = (self.shape[0], groups, channels), self.number("times", np.ones((1, 1, channels)))
            row = self._tensor(f"{name}_of_channels", shape, "float32", Op.MUL, [row, ones], "MulOptions")
        return self.reshaped(f"{self.instruction.name}/{name}_spread", row, [self.shape[0], *self.grouping.spread])

    def along(self, parameter: np.ndarray) -> np.ndarray:
        """Return a parameter of the channels as the image reads it."""
        return self.grouping.along(parameter)

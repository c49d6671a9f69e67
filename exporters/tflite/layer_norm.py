"""LayerNorm and RMSNorm in a ``.tflite``, of float operators whose results have the same bits on every machine.

The operators are those of :mod:`qat.arithmetic.layer_norm`: sums of integers, and single float32 operators that IEEE 754 rounds.
Floats hold the integers, each of them up to 2^24; the sum of squares may pass that, and is one of int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from qat.arithmetic.grid import f32
from qat.arithmetic.layer_norm import scaled_epsilon, scaled_least
from qat.program.program import Instruction

from .writer import Op, Writer

#: XNNPACK takes tensors of six axes at most (XNN_MAX_TENSOR_DIMS); an operator on more runs in TFLite's own kernel.
_BEYOND_XNNPACK = 7


def write_layer_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the sums of integers, and from them the mean, the variance and the result."""
    assert instruction.weight is not None and instruction.bias is not None
    w = _Steps(writer, instruction)
    scale, zero_point = w.encoding.scale, w.encoding.zero_point
    q = w.add("integers", w.centered(), w.number("origin", zero_point))
    total = w.total("total", q)
    c = w.rounded("center", w.div("mean", total, w.count, single=True), single=True)
    d = w.sub("distance", q, c)
    rest = w.sub("left", total, w.mul("centers", c, w.count, single=True), single=True)
    rest = w.div("rest", rest, w.count, single=True)
    variance = w.sub("variance", w.mean_square(d), w.mul("rest_squared", rest, rest, single=True), single=True)
    epsilon = w.number("epsilon", scaled_epsilon(instruction.attrs["epsilon"], float(scale)))
    deviation = w.root("deviation", w.add("regular", variance, epsilon, single=True))
    y = w.div("normalized", w.sub("centered", d, rest), deviation)
    y = w.mul("scaled", y, w.number("gamma", instruction.weight))
    w.quantize(w.add("shifted", y, w.number("beta", instruction.bias)))


def write_rms_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the sum of squared integers, and from it the root and the result."""
    assert instruction.weight is not None
    w = _Steps(writer, instruction)
    q, scale = w.centered(), float(w.encoding.scale)
    epsilon = w.number("epsilon", scaled_epsilon(instruction.attrs["epsilon"], scale))
    root = w.root("root", w.add("regular", w.mean_square(q), epsilon, single=True))
    least = w.number("least", scaled_least(instruction.attrs["least"], scale))
    root = w.operator("limited", Op.MAXIMUM, [root, least], True, "MaximumMinimumOptions")
    w.quantize(w.mul("scaled", w.div("normalized", q, root), w.number("gamma", instruction.weight)))


class _Steps:
    """Writes the operators of one instruction. A ``single`` one has one value for each row of the normalized axis."""

    def __init__(self, writer: Writer, instruction: Instruction) -> None:
        self.writer, self.instruction = writer, instruction
        self.encoding = writer.program.encoding_of(instruction.inputs[0])
        self.shape = writer.program.values[instruction.inputs[0]].shape
        self.count = self.number("count", self.shape[-1] or 1)
        self.axes = writer.constant(f"{instruction.name}.axes", [len(self.shape) - 1])

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
        shape = (*self.shape[:-1], 1) if single else self.shape
        output = self.writer.add_tensor(f"{self.instruction.name}/{name}", shape, dtype)
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
        rows = None if None in self.shape else prod(size or 1 for size in self.shape[:-1])
        of_root, wide = f"{self.instruction.name}/{name}", (rows, *[1] * (_BEYOND_XNNPACK - 1))
        spread = self.reshaped(f"{of_root}_in", x, wide)
        root = self.writer.add_tensor(f"{of_root}_out", wide, "float32")
        self.writer.operator(Op.SQRT, [spread], root, 1)
        return self.reshaped(of_root, root, (*self.shape[:-1], 1))

    def reshaped(self, output: str, x: str, shape: Sequence[int | None]) -> str:
        """Add a tensor of another shape, whose batch is free."""
        sizes = self.writer.constant(f"{output}.shape", [-1 if size is None else size for size in shape])
        self.writer.operator(Op.RESHAPE, [x, sizes], self.writer.add_tensor(output, shape, "float32"), 1, "ReshapeOptions")
        return output

    def rounded(self, name: str, x: str, single: bool = False) -> str:
        """Add a rounding, of halves to even."""
        return self.operator(name, Op.ROUND, [x], single)

    def total(self, name: str, x: str, dtype: str = "float32") -> str:
        """Add a sum over the last axis."""
        return self.operator(name, Op.SUM, [x, self.axes], True, "ReducerOptions", dtype, keepDims=True)

    def centered(self) -> str:
        """Add the input's integers less their zero point: their real values times the inverse scale are near them."""
        real = self.writer.add_tensor(f"{self.instruction.name}/real", self.shape, "float32")
        self.writer.operator(
            Op.DEQUANTIZE, [self.writer.integer_tensor(self.instruction.inputs[0])], real, 2, "DequantizeOptions"
        )
        return self.rounded("whole", self.mul("units", real, self.number("per_unit", f32(1) / f32(self.encoding.scale))))

    def mean_square(self, x: str) -> str:
        """Add the mean of the squares of integers."""
        whole = self.operator("squared_whole", Op.CAST, [self.mul("squared", x, x)], False, "CastOptions", "int32")
        squares = self.operator("squares", Op.CAST, [self.total("squares_whole", whole, "int32")], True, "CastOptions")
        return self.div("square", squares, self.count, single=True)

    def quantize(self, y: str) -> None:
        """Add the step to the output's integers."""
        output = self.writer.integer_tensor(self.instruction.outputs[0])
        self.writer.operator(Op.QUANTIZE, [y], output, 1, "QuantizeOptions")

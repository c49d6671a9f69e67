"""LayerNorm and RMSNorm as ONNX nodes whose results have the same bits on every machine; see :mod:`qat.arithmetic.layer_norm`.

Most of the time goes into passes over the whole tensor, so that there are few: integers are held in float32, which adds them
exactly below 2^24, in any order. The mean of integers is then one sum and one division.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from qat.arithmetic.grid import f32
from qat.arithmetic.layer_norm import scaled_epsilon, scaled_least
from qat.program.program import Instruction

from .writer import Writer

#: The largest sum of integers that float32 holds whatever their order.
_EXACT = 2**24


class _Nodes:
    """Writes the nodes of one normalization."""

    def __init__(self, writer: Writer, instruction: Instruction) -> None:
        assert instruction.weight is not None
        self.writer, self.name, self.count = writer, instruction.name, len(instruction.weight)
        self.rank = len(writer.program.values[instruction.inputs[0]].shape)
        self.last = self.number("axes", np.array([-1], np.int64))

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Write a node and return its output's name."""
        return self.writer.node(kind, inputs, f"{self.name}/{name}", **attributes)

    def number(self, name: str, value: npt.ArrayLike) -> str:
        """Store a constant and return its name."""
        return self.writer.constant(f"{self.name}.{name}", value)

    def mean_square(self, integers: str, largest: int, mean: float) -> str:
        """Write the mean of the squares of integers, which float32 numbers hold.

        A sum that may pass 2^24 is one of int32 numbers: of the sums of parts that do not, else of the squares.

        Args:
            integers: of one row each.
            largest: the most that one is away from 0.
            mean: the most that the mean of a row's squares can be.
        """
        squares = self.node("Mul", integers, integers, name="squared")
        if self.count * mean <= _EXACT:
            return self.node("ReduceMean", squares, self.last, name="square")
        parts = next(k for k in range(2, self.count + 1) if self.count % k == 0 and self.count // k * largest**2 <= _EXACT)
        if parts < self.count:
            shape = self.number("parts", np.array([*[0] * (self.rank - 1), parts, self.count // parts], np.int64))
            split = self.node("Reshape", squares, shape, name="split")
            squares = self.node("ReduceSum", split, self.last, name="partial", keepdims=0)
        whole = self.node("Cast", squares, name="whole", to=TensorProto.INT32)
        total = self.node("ReduceSum", whole, self.last, name="squares")
        real = self.node("Cast", total, name="squares_real", to=TensorProto.FLOAT)
        return self.node("Div", real, self.number("count", f32(self.count)), name="square")

    def finish(self, y: str, instruction: Instruction) -> None:
        """Write the products with gamma, the sums with beta, and the QuantizeLinear; those that change nothing are left out."""
        gamma, beta = instruction.weight, instruction.bias
        if gamma is not None and np.any(gamma != 1):
            y = self.node("Mul", y, self.number("gamma", gamma.astype(f32)), name="scaled")
        if beta is not None and np.any(beta != 0):
            y = self.node("Add", y, self.number("beta", beta.astype(f32)), name="shifted")
        output = instruction.outputs[0]
        self.writer.node("QuantizeLinear", [y, *self.writer.scale_and_zero_point(output)], output, instruction.name)


def write_layer_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the distances from the integer nearest to the mean, and from them the variance and the result."""
    nodes, x = _Nodes(writer, instruction), writer.program.encoding_of(instruction.inputs[0])
    node, span = nodes.node, x.qmax - x.qmin
    q = node("Cast", instruction.inputs[0], name="integers", to=TensorProto.FLOAT)
    center = node("Round", node("ReduceMean", q, nodes.last, name="mean"), name="center")
    d = node("Sub", q, center, name="distance")
    rest = node("ReduceMean", d, nodes.last, name="rest")
    # The variance of numbers is at most the square of half their span; the center is half a unit off the mean at most.
    square = nodes.mean_square(d, span, (span / 2) ** 2 + 0.25)
    variance = node("Sub", square, node("Mul", rest, rest, name="rest_squared"), name="variance")
    epsilon = nodes.number("epsilon", scaled_epsilon(instruction.attrs["epsilon"], float(x.scale)))
    deviation = node("Sqrt", node("Add", variance, epsilon, name="regular"), name="deviation")
    nodes.finish(node("Div", node("Sub", d, rest, name="centered"), deviation, name="normalized"), instruction)


def write_rms_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the mean of squared integers, and from it the root and the result."""
    nodes, x = _Nodes(writer, instruction), writer.program.encoding_of(instruction.inputs[0])
    node, attrs, scale = nodes.node, instruction.attrs, float(x.scale)
    q = node("Cast", instruction.inputs[0], name="integers", to=TensorProto.FLOAT)
    if x.zero_point:
        q = node("Sub", q, nodes.number("origin", f32(x.zero_point)), name="centered")
    largest = max(x.hi, -x.lo)
    epsilon, least = scaled_epsilon(attrs["epsilon"], scale), scaled_least(attrs["least"], scale)
    regular = node("Add", nodes.mean_square(q, largest, largest**2), nodes.number("epsilon", epsilon), name="regular")
    root = node("Sqrt", regular, name="root")
    if np.sqrt(epsilon) < least:
        root = node("Max", root, nodes.number("least", least), name="limited")
    nodes.finish(node("Div", q, root, name="normalized"), instruction)

"""Norms as ONNX nodes whose results have the same bits on every machine; see :mod:`qat.arithmetic.layer_norm`.

Most of the time goes into passes over the whole tensor, so that there are few: integers are held in float32, which adds them
exactly below 2^24, in any order. The mean of integers is then one sum and one division.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from qat.arithmetic.grid import EXACT_IN_FLOAT, f32
from qat.arithmetic.layer_norm import centred_square, scaled_epsilon, scaled_least, type_of_sums
from qat.exporters.channel_groups import ChannelGroups
from qat.program.program import Instruction

from .writer import Writer

_TYPES = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}


class _Nodes:
    """Writes the nodes of one normalization, whose rows lie along the last axis."""

    def __init__(self, writer: Writer, instruction: Instruction) -> None:
        assert instruction.weight is not None
        self.writer, self.instruction, self.name, self.count = writer, instruction, instruction.name, len(instruction.weight)
        self.shape = writer.program.values[instruction.inputs[0]].shape
        self.rank, self.encoding = len(self.shape), writer.program.encoding_of(instruction.inputs[0])

    @property
    def last(self) -> str:
        """The constant that names the last axis."""
        return self.number("axes", np.array([-1], np.int64))

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Write a node and return its output's name."""
        return self.writer.node(kind, inputs, f"{self.name}/{name}", **attributes)

    def number(self, name: str, value: npt.ArrayLike) -> str:
        """Store a constant and return its name."""
        return self.writer.constant(f"{self.name}.{name}", value)

    @property
    def largest(self) -> int:
        """The greatest magnitude of an integer."""
        return max(abs(self.encoding.qmin), abs(self.encoding.qmax))

    def mean(self, q: str) -> str:
        """Write the mean of the integers of each row."""
        if self.count * self.largest < EXACT_IN_FLOAT:
            return self.node("ReduceMean", q, self.last, name="mean")
        return self.node("Div", self.total(q), self.number("count", f32(self.count)), name="mean")

    def total(self, q: str) -> str:
        """Write the sum of integers that may pass what float32 holds."""
        whole = self.node("Cast", q, name="integers_whole", to=_TYPES[type_of_sums(self.count, self.largest)])
        return self.node("Cast", self.node("ReduceSum", whole, self.last, name="total_whole"), name="total", to=TensorProto.FLOAT)

    def spread(self, row: str) -> str:
        """Return a number of each row as the image reads it."""
        return row

    def along(self, parameter: np.ndarray) -> np.ndarray:
        """Return a parameter as the image reads it."""
        return parameter.astype(f32)

    def mean_square(self, integers: str, largest: int, mean: float) -> str:
        """Write the mean of the squares of integers, which float32 numbers hold.

        A sum that may pass 2^24 is one of whole numbers: of the sums of parts that do not, else of the squares.

        Args:
            integers: of one row each.
            largest: the most that one is away from 0.
            mean: the most that the mean of a row's squares can be.
        """
        squares = self.node("Mul", integers, integers, name="squared")
        if self.count * mean <= EXACT_IN_FLOAT:
            return self.node("ReduceMean", squares, self.last, name="square")
        divisors = (k for k in range(2, self.count + 1) if self.count % k == 0)
        parts = next(k for k in divisors if self.count // k * largest**2 <= EXACT_IN_FLOAT)
        if parts < self.count:
            shape = self.number("parts", np.array([*[0] * (self.rank - 1), parts, self.count // parts], np.int64))
            split = self.node("Reshape", squares, shape, name="split")
            squares = self.node("ReduceSum", split, self.last, name="partial", keepdims=0)
        whole = self.node("Cast", squares, name="whole", to=_TYPES[type_of_sums(self.count, mean)])
        total = self.node("ReduceSum", whole, self.last, name="squares")
        real = self.node("Cast", total, name="squares_real", to=TensorProto.FLOAT)
        return self.node("Div", real, self.number("count", f32(self.count)), name="square")

    def finish(self, y: str, instruction: Instruction) -> None:
        """Write the products with gamma, the sums with beta, and the QuantizeLinear; those that change nothing are left out."""
        gamma, beta = instruction.weight, instruction.bias
        if gamma is not None and np.any(gamma != 1):
            y = self.node("Mul", y, self.number("gamma", self.along(gamma)), name="scaled")
        if beta is not None and np.any(beta != 0):
            y = self.node("Add", y, self.number("beta", self.along(beta)), name="shifted")
        output = instruction.outputs[0]
        self.writer.node("QuantizeLinear", [y, *self.writer.scale_and_zero_point(output)], output, instruction.name)


class _Groups(_Nodes):
    """The same for groups of channels.

    Attributes:
        axes: of the image, to sum over; None where a reshape makes an axis of the groups, and ``[batch, groups, 1]`` holds a
            number of each. Reductions of the image itself leave it in any layout: a reshape would need transposes around it.
    """

    def __init__(self, writer: Writer, instruction: Instruction) -> None:
        super().__init__(writer, instruction)
        self.grouping = ChannelGroups.of(self.shape, instruction.attrs)
        self.count, self.axes = self.grouping.terms, self.grouping.axes

    def mean(self, q: str) -> str:
        """Write the mean of the integers of each group."""
        return self._mean("total", q, self.largest, self.largest, "mean")

    def mean_square(self, integers: str, largest: int, mean: float) -> str:
        """Write the mean of the squares of each group."""
        squared = self.node("Mul", integers, integers, name="squared")
        return self._mean("squares", squared, largest**2, mean, "square")

    def _mean(self, total: str, x: str, largest: int, mean: float, name: str) -> str:
        """Write the mean of integers; ``mean`` limits it."""
        if self.axes is not None and self.count * mean < EXACT_IN_FLOAT:
            return self.node("ReduceMean", x, self.number("axes_of_image", np.array(self.axes)), name=name)
        return self.node("Div", self._summed(total, x, largest, mean), self.number("count", f32(self.count)), name=name)

    def _summed(self, name: str, x: str, largest: int, mean: float) -> str:
        """Write exact sums: in float32 as far as it holds every integer, then of integers; ``mean`` limits a group's mean."""
        first, then = self.grouping.summed_in_float(largest)
        if first:
            x = self.node("ReduceSum", x, self.number(f"axes_of_{name}", np.array(first)), name=f"{name}_real")
        whole = self.grouping.passes_float(largest)
        if whole:
            x = self.node("Cast", x, name=f"{name}_whole", to=_TYPES[type_of_sums(self.count, mean)])
        then = then if self.axes is None else [a for a in self.axes if a not in first]
        if then:
            x = self.node("ReduceSum", x, self.number(f"axes_of_whole_{name}", np.array(then)), name=f"{name}_of_channels")
        if self.axes is None:
            sizes = np.array([0, self.grouping.groups, self.grouping.channels])
            x = self.node("Reshape", x, self.number("grouped", sizes), name=f"{name}_grouped")
            x = self.node("ReduceSum", x, self.last, name=f"{name}_of_groups")
        return self.node("Cast", x, name=f"{name}_rounded", to=TensorProto.FLOAT) if whole else x

    def spread(self, row: str) -> str:
        """Return a number of each group as the image reads it: one for each of the channels."""
        if self.axes is not None:
            return row
        name = row.removeprefix(f"{self.name}/")
        row = self.node("Expand", row, self.number("times", np.array([1, 1, self.grouping.channels])), name=f"{name}_of_channels")
        return self.node("Reshape", row, self.number("spread", np.array([0, *self.grouping.spread])), name=f"{name}_spread")

    def along(self, parameter: np.ndarray) -> np.ndarray:
        """Return a parameter of the channels as the image reads it."""
        return self.grouping.along(parameter.astype(f32))


def write_layer_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the distances from the integer nearest to the mean, and from them the variance and the result."""
    _write(_Nodes(writer, instruction))


def write_group_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the same for groups of channels."""
    _write(_Groups(writer, instruction))


def _write(nodes: _Nodes) -> None:
    node, x, attrs = nodes.node, nodes.encoding, nodes.instruction.attrs
    q = node("Cast", nodes.instruction.inputs[0], name="integers", to=TensorProto.FLOAT)
    mean = nodes.mean(q)
    center = node("Round", mean, name="center")
    d, rest = node("Sub", q, nodes.spread(center), name="distance"), node("Sub", mean, center, name="rest")
    square = nodes.mean_square(d, x.qmax - x.qmin, centred_square(x))
    variance = node("Sub", square, node("Mul", rest, rest, name="rest_squared"), name="variance")
    epsilon = nodes.number("epsilon", scaled_epsilon(attrs["epsilon"], float(x.scale)))
    deviation = node("Sqrt", node("Add", variance, epsilon, name="regular"), name="deviation")
    if attrs.get("uncentered", False):
        y = node("Sub", q, nodes.number("origin", f32(x.zero_point)), name="centered") if x.zero_point else q
    else:
        y = node("Sub", q, nodes.spread(mean), name="centered")
    nodes.finish(node("Div", y, nodes.spread(deviation), name="normalized"), nodes.instruction)


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

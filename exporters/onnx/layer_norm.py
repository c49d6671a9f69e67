"""LayerNorm and RMSNorm as ONNX nodes whose results have the same bits on every machine; see :mod:`qat.arithmetic.layer_norm`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from qat.arithmetic.grid import f32
from qat.arithmetic.layer_norm import scaled_epsilon, scaled_least
from qat.program.program import Instruction

from .writer import Writer


def write_layer_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the sums of integers, and from them the mean, the variance and the result."""
    assert instruction.weight is not None and instruction.bias is not None
    (source,), (output,) = instruction.inputs, instruction.outputs

    def node(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        return writer.node(kind, inputs, f"{instruction.name}/{name}", **attributes)

    def number(name: str, value: npt.ArrayLike) -> str:
        return writer.constant(f"{instruction.name}.{name}", value)

    n, last = number("count", f32(len(instruction.weight))), number("axes", np.array([-1], np.int64))
    q = node("Cast", source, name="integers", to=TensorProto.FLOAT)
    total = node("ReduceSum", q, last, name="total")
    c = node("Round", node("Div", total, n, name="mean"), name="center")
    d = node("Sub", q, c, name="distance")
    rest = node("Div", node("Sub", total, node("Mul", c, n, name="centers"), name="left"), n, name="rest")
    # The sum of the squares may pass 2^24, beyond which float32 does not hold every integer.
    integers = node("Cast", d, name="whole", to=TensorProto.INT32)
    squares = node("ReduceSum", node("Mul", integers, integers, name="squared"), last, name="squares")
    squares = node("Div", node("Cast", squares, name="squares_real", to=TensorProto.FLOAT), n, name="square")
    variance = node("Sub", squares, node("Mul", rest, rest, name="rest_squared"), name="variance")
    epsilon = number("epsilon", scaled_epsilon(instruction.attrs["epsilon"], float(writer.program.encoding_of(source).scale)))
    deviation = node("Sqrt", node("Add", variance, epsilon, name="regular"), name="deviation")
    y = node("Div", node("Sub", d, rest, name="centered"), deviation, name="normalized")
    y = node("Mul", y, number("gamma", instruction.weight.astype(f32)), name="scaled")
    y = node("Add", y, number("beta", instruction.bias.astype(f32)), name="shifted")
    writer.node("QuantizeLinear", [y, *writer.scale_and_zero_point(output)], output, instruction.name)


def write_rms_norm(writer: Writer, instruction: Instruction) -> None:
    """Write the sum of squared integers, and from it the root and the result."""
    assert instruction.weight is not None
    (source,), (output,) = instruction.inputs, instruction.outputs
    encoding = writer.program.encoding_of(source)

    def node(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        return writer.node(kind, inputs, f"{instruction.name}/{name}", **attributes)

    def number(name: str, value: npt.ArrayLike) -> str:
        return writer.constant(f"{instruction.name}.{name}", value)

    whole = node("Cast", source, name="whole", to=TensorProto.INT32)
    if encoding.zero_point:
        whole = node("Sub", whole, number("origin", np.int32(encoding.zero_point)), name="centered")
    squares = node(
        "ReduceSum", node("Mul", whole, whole, name="squared"), number("axes", np.array([-1], np.int64)), name="squares"
    )
    squares = node("Cast", squares, name="squares_real", to=TensorProto.FLOAT)
    mean = node("Div", squares, number("count", f32(len(instruction.weight))), name="mean")
    scale = float(encoding.scale)
    epsilon = number("epsilon", scaled_epsilon(instruction.attrs["epsilon"], scale))
    root = node("Sqrt", node("Add", mean, epsilon, name="regular"), name="root")
    root = node("Max", root, number("least", scaled_least(instruction.attrs["least"], scale)), name="limited")
    y = node("Div", node("Cast", whole, name="real", to=TensorProto.FLOAT), root, name="normalized")
    y = node("Mul", y, number("gamma", instruction.weight.astype(f32)), name="scaled")
    writer.node("QuantizeLinear", [y, *writer.scale_and_zero_point(output)], output, instruction.name)

"""LayerNorm as ONNX nodes whose results have the same bits wherever they run; see :mod:`qat.arithmetic.layer_norm`."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from qat.arithmetic.layer_norm import scaled_epsilon
from qat.arithmetic.numerics import f32
from qat.program.program import Instruction


def write_layer_norm(w: Any, step: Instruction) -> None:
    """Write the sums of integers and what is made of them."""
    assert step.weight is not None and step.bias is not None
    (source,), (output,) = step.inputs, step.outputs

    def node(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        return str(w.node(kind, inputs, f"{step.name}/{name}", **attributes))

    def number(name: str, value: Any) -> str:
        return str(w.constant(f"{step.name}.{name}", np.asarray(value)))

    n, last = number("count", f32(len(step.weight))), number("axes", np.array([-1], np.int64))
    q = node("Cast", source, name="integers", to=TensorProto.FLOAT)
    total = node("ReduceSum", q, last, name="total")
    c = node("Round", node("Div", total, n, name="mean"), name="center")
    d = node("Sub", q, c, name="distance")
    rest = node("Div", node("Sub", total, node("Mul", c, n, name="centers"), name="left"), n, name="rest")
    whole = node("Cast", d, name="whole", to=TensorProto.INT32)  # whose squares' sum may pass 2^24
    squares = node("ReduceSum", node("Mul", whole, whole, name="squared"), last, name="squares")
    squares = node("Div", node("Cast", squares, name="squares_real", to=TensorProto.FLOAT), n, name="square")
    variance = node("Sub", squares, node("Mul", rest, rest, name="rest_squared"), name="variance")
    epsilon = number("epsilon", scaled_epsilon(step.attrs["epsilon"], float(w.encoding(source).scale)))
    deviation = node("Sqrt", node("Add", variance, epsilon, name="regular"), name="deviation")
    y = node("Div", node("Sub", d, rest, name="centered"), deviation, name="normalized")
    y = node("Mul", y, number("gamma", step.weight.astype(f32)), name="scaled")
    y = node("Add", y, number("beta", step.bias.astype(f32)), name="shifted")
    w.node("QuantizeLinear", [y, *w.grid(output)], output, step.name)

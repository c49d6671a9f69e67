"""Attention as QDQ nodes: ONNX Runtime makes QLinearMatMul and QLinearSoftmax of them; an embedding is a Gather of integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qat.arithmetic.numerics import f32
from qat.program.program import Instruction

#: Ends the name of a scale that a softmax multiplies its factor into. It is no encoding of the tensor that it dequantizes.
BETA = "/times_beta"


def _matmul(w: Any, step: Instruction) -> None:
    """Write a product; its second operand is transposed as integers."""
    integers = ""
    if step.attrs["transpose_b"]:
        rank = len(w.program.values[step.inputs[1]].shape)
        axes = [*range(rank - 2), rank - 1, rank - 2]
        integers = w.node("Transpose", [step.inputs[1]], f"{step.name}/transposed", perm=axes)
    inputs = [w.real(step, 0), w.real(step, 1, integers)]
    w.finish(step, w.node("MatMul", inputs, f"{step.name}/real", step.name))


def _softmax(w: Any, step: Instruction) -> None:
    """Write a softmax; its factor is in the scale that it reads its input by."""
    (source,), beta = step.inputs, f32(step.attrs["beta"])
    if beta == 1:
        real = w.real(step)
    else:
        scale = w.constant(f"{step.name}{BETA}", np.asarray(f32(w.encoding(source).scale) * beta))
        real = w.node("DequantizeLinear", [source, scale, w.grid(source)[1]], f"{step.name}/input0")
    w.finish(step, w.node("Softmax", [real], f"{step.name}/real", step.name, axis=-1))


def _embedding(w: Any, step: Instruction) -> None:
    weight = w.constant(f"{step.name}.weight", step.weight)
    w.node("Gather", [weight, step.inputs[0]], step.outputs[0], step.name, axis=0)


OPERATORS: dict[str, Callable[[Any, Instruction], None]] = {"matmul": _matmul, "softmax": _softmax, "embedding": _embedding}

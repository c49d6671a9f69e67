"""Attention in a ``.tflite``: int8 kernels of TFLite's own, which LiteRT's delegate leaves to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.program.program import Instruction

_Op = schema.BuiltinOperator


def _matmul(w: Any, step: Instruction) -> None:
    options = schema.BatchMatMulOptionsT()
    options.adjY = bool(step.attrs["transpose_b"])
    inputs = [w.grid(name) for name in step.inputs]
    w.operator(_Op.BATCH_MATMUL, inputs, [w.grid(step.outputs[0])], 2, options, "BatchMatMulOptions")


def _softmax(w: Any, step: Instruction) -> None:
    options = schema.SoftmaxOptionsT()
    options.beta = float(step.attrs["beta"])
    w.operator(_Op.SOFTMAX, [w.grid(step.inputs[0])], [w.grid(step.outputs[0])], 2, options, "SoftmaxOptions")


def _embedding(w: Any, step: Instruction) -> None:
    assert step.weight is not None
    options, e = schema.GatherOptionsT(), w.encoding(step.outputs[0])
    weight = w.add_tensor(
        f"{step.name}.weight", step.weight.shape, e.dtype, e.scale, e.zero_point, data=np.ascontiguousarray(step.weight)
    )
    w.operator(_Op.GATHER, [weight, w.tensor(step.inputs[0])], [w.grid(step.outputs[0])], 2, options, "GatherOptions")


OPERATORS: dict[str, Callable[[Any, Instruction], None]] = {"matmul": _matmul, "softmax": _softmax, "embedding": _embedding}

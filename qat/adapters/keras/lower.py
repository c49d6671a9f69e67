"""Lowering: the prepared model's integers, as its nodes compute them, into a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tensorflow import Tensor

from qat.adapters.keras.nodes.attention import Embedding
from qat.adapters.keras.nodes.linear import Linear
from qat.adapters.keras.nodes.stored_weight import StoredWeight
from qat.graph.kinds import KINDS
from qat.planning.plan import Plan, PlannedOp
from qat.program.build import block_border, build_program, grid_value_name, real_value_name
from qat.program.program import FrameworkBlock, Program

from .prepared_model import PreparedModel


def lower(model: PreparedModel, outputs: Sequence[str] | None = None) -> Program:
    """Return the integer program of a calibrated model; ``outputs``: those of the graph's that it is to return, by default all.

    Raises:
        CalibrationError: the model has not been calibrated.
    """
    plan = model.plan if outputs is None else model.plan.returning(outputs)
    encodings = {name: grid.encoding for name, grid in model.grids.items()}

    def integers(planned: PlannedOp) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        node, params = model.nodes[planned.op.name], model.params_of(planned.op)
        weight, bias = params["weight"], params.get("bias")
        if isinstance(node, Embedding):
            return _lines(node, weight)
        if isinstance(node, StoredWeight):
            return _stored(node, weight, bias)
        assert isinstance(node, Linear)
        return _quantized(node, weight, bias)

    def parameter(name: str) -> np.ndarray:
        return np.asarray(model.tensor(name), np.float32)

    program = build_program(plan, encodings, integers, parameter, _block(model, plan))
    input_names, output_names = model.signature.caller_names(plan.graph)
    return replace(program, input_names=input_names, output_names=output_names)


def _quantized(node: Linear, weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    scale = node.weight_scale(weight, bias)
    w_int, b_int = node.quantized(weight, bias, scale)
    width = np.int64 if node.planned.kernels == "int16" else np.int32
    w = to_program_layout(np.asarray(w_int), node.planned.op.kind).astype(np.int8)
    return w, np.asarray(scale, np.float32), None if b_int is None else np.asarray(b_int).astype(width)


def _lines(node: Embedding, weight: Tensor) -> tuple[np.ndarray, np.ndarray, None]:
    held, scale = node.held(weight)
    return np.asarray(held).astype(np.float16 if node.planned.weight is None else np.int8), np.asarray(scale, np.float32), None


def _stored(node: StoredWeight, weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    w, scale = node.stored(weight)
    dtype = np.float16 if node.planned.weight is None else np.int8
    held = to_program_layout(np.asarray(w), node.planned.op.kind).astype(dtype)
    return held, np.asarray(scale, np.float32), None if bias is None else np.asarray(bias)


def to_program_layout(weight: np.ndarray, kind: str) -> np.ndarray:
    """Return the weight as a program holds it: HWIO, HWOI -> OIHW, (h, w, c, m) -> (c m, 1, h, w), (in, out) -> (out, in)."""
    properties = KINDS[kind]
    if not properties.spatial:
        return weight.T
    if properties.depthwise:
        h, w, c, m = weight.shape
        return weight.transpose(2, 3, 0, 1).reshape(c * m, 1, h, w)
    return weight.transpose(2, 3, 0, 1) if properties.transposed else weight.transpose(3, 2, 0, 1)


def _block(model: PreparedModel, plan: Plan) -> FrameworkBlock | None:
    """Return the operators that keep Keras' implementation as one function of the program's values at their borders."""
    kept = [p for p in plan.ops if p.keeps_framework]
    if not kept:
        return None
    inputs, outputs = block_border(plan)

    def module(*tensors: object) -> tuple[object, ...]:
        real = dict(zip(inputs, tensors, strict=True))
        for p in kept:
            form = grid_value_name if p.integer else real_value_name
            values = [real[form(plan, t)] for t in p.op.inputs]
            if p.op.name in model.nodes:
                real[p.op.output] = model.nodes[p.op.name](values, model.params_of(p.op), False, False)
            else:
                real.update(model.kept.written(p.op, values, plan.target.suffix))
        return tuple(real[t] for t in outputs)

    return FrameworkBlock("keras", module, inputs, outputs)

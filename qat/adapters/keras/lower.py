"""Lowering: the prepared model's integers, as its nodes compute them, into a program."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from qat.adapters.keras.insert import PreparedModel
from qat.adapters.keras.nodes import Linear
from qat.lowering import build_program, real_value_name
from qat.planner import PlannedOp
from qat.program import FloatBlock, Program


def lower(model: PreparedModel) -> Program:
    """Return the integer program of a calibrated model.

    Raises:
        CalibrationError: the model has not been calibrated.
    """
    encodings = {name: grid.encoding for name, grid in model.grids.items()}

    def integers(planned: PlannedOp) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        node = model.nodes[planned.op.name]
        assert isinstance(node, Linear)
        params = {role: tf.convert_to_tensor(model.parameters[name]) for role, name in planned.op.params.items()}
        scale = node.weight_scale(params["weight"], params.get("bias"))
        w_int, b_int = node.quantized(params["weight"], params.get("bias"), scale)
        return (
            _canonical(np.asarray(w_int), planned.op.kind).astype(np.int8),
            np.asarray(scale, np.float32),
            None if b_int is None else np.asarray(b_int).astype(np.int32),
        )

    return build_program(model.plan, encodings, integers, _float_block(model))


def _canonical(weight: np.ndarray, kind: str) -> np.ndarray:
    """Turn Keras' layout into the program's: HWIO -> OIHW, (h, w, c, m) -> (c m, 1, h, w), (in, out) -> (out, in)."""
    if kind == "dense":
        return weight.T
    if kind == "depthwise_conv2d":
        h, w, c, m = weight.shape
        return weight.transpose(2, 3, 0, 1).reshape(c * m, 1, h, w)
    return weight.transpose(3, 2, 0, 1)


def _float_block(model: PreparedModel) -> FloatBlock | None:
    """Name the float operators' borders; the block itself is the prepared model, run on the float tensors only."""
    plan = model.plan
    floats = [p for p in plan.ops if not p.integer]
    if not floats:
        return None
    written = {t for p in floats for t in p.op.outputs}
    inputs = tuple(dict.fromkeys(t for p in floats for t in p.op.inputs if t not in written))
    read = {t for p in plan.ops if p.integer for t in p.op.inputs} | set(plan.graph.outputs)
    outputs = tuple(t for p in floats for t in p.op.outputs if t in read)

    def module(*tensors: object) -> tuple[object, ...]:
        real = dict(zip(inputs, tensors, strict=True))
        for p in floats:
            values = [real[t] for t in p.op.inputs]
            if p.op.name in model.nodes:
                params = {role: tf.convert_to_tensor(model.parameters[n]) for role, n in p.op.params.items()}
                real[p.op.output] = model.nodes[p.op.name](values, params, False, False)
            else:
                real.update(model.call_float(p.op.name, values))
        return tuple(real[t] for t in outputs)

    return FloatBlock("keras", module, tuple(real_value_name(plan, t) for t in inputs), outputs)

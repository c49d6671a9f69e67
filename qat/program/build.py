"""Lowering, the part that both frameworks share: a plan and its integers become a :class:`qat.program.program.Program`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.arithmetic.kernels import KERNELS
from qat.graph.kinds import KINDS, bounds
from qat.planning.plan import Plan, PlannedOp

from .program import FrameworkBlock, Instruction, Program, Value

log = logging.getLogger("qat")

#: ``(weight int8, scale float32 (channels,), bias int32 or None)`` of a planned operator, in the program's layouts. Where its
#: weight alone is stored: the bias in float32, and a weight in float16 with scales of 1.
Integers = Callable[[PlannedOp], tuple[np.ndarray, np.ndarray, "np.ndarray | None"]]
#: The float32 value of a parameter, by name.
Parameter = Callable[[str], np.ndarray]


def grid_value_name(plan: Plan, tensor: str) -> str:
    """Return the program's name of a tensor's integers: its own where an integer kernel writes it."""
    return f"{tensor}_quantized" if tensor in plan.quantize else tensor


def real_value_name(plan: Plan, tensor: str) -> str:
    """Return the program's name of a tensor's float values: its own where it is float from the start."""
    return f"{tensor}_dequantized" if tensor in plan.dequantize else tensor


def block_border(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the program's values that the operators of the framework's block read and write.

    Between them stand the integer kernels. A ``move`` reads and writes values on the grid, any other float ones.
    """
    kept = [p for p in plan.ops if p.keeps_framework]
    read = {p.op.name: tuple((grid_value_name if p.integer else real_value_name)(plan, t) for t in p.op.inputs) for p in kept}
    written = {t for p in kept for t in p.op.outputs}
    inside = {name for names in read.values() for name in names}
    outside = {t for p in plan.ops if not p.keeps_framework for t in p.op.inputs}
    outside |= {*plan.graph.outputs, *plan.quantize, *plan.dequantize}
    inputs = tuple(dict.fromkeys(name for names in read.values() for name in names if name not in written))
    return inputs, tuple(t for p in kept for t in p.op.outputs if t in outside or t not in inside)


def build_program(
    plan: Plan, encodings: Mapping[str, Encoding], integers: Integers, parameter: Parameter, block: FrameworkBlock | None
) -> Program:
    """Return the program of a plan.

    Args:
        plan: as built into the prepared model.
        encodings: the encoding of each group.
        integers: gives the integer weight and bias of an operator.
        parameter: gives the value of a parameter.
        block: the operators that stay float; its inputs and outputs carry the names of float values.
    """
    values: dict[str, Value] = {}
    steps: list[Instruction] = []

    def value(name: str, tensor: str, encoding: Encoding | None) -> str:
        spec = plan.graph.tensors[tensor]
        values.setdefault(name, Value(name, spec.shape, encoding, spec.dtype, example=spec.example))
        return name

    def on_grid(tensor: str) -> str:
        name = grid_value_name(plan, tensor)
        encoding = encodings[plan.group_of[tensor]]
        if name not in values:
            value(name, tensor, encoding)
            if tensor in plan.quantize:
                steps.append(Instruction(f"quantize_{tensor}", "quantize", (tensor,), (name,)))
        return name

    def as_float(tensor: str) -> str:
        name = real_value_name(plan, tensor)
        if name not in values:
            value(name, tensor, None)
            if tensor in plan.dequantize:
                steps.append(Instruction(f"dequantize_{tensor}", "dequantize", (on_grid(tensor),), (name,)))
        return name

    for tensor in plan.graph.inputs:
        value(tensor, tensor, None)
    for planned in plan.ops:
        op, kind = planned.op, KINDS[planned.op.kind]
        if planned.keeps_framework:
            step_kind, form = ("move", on_grid) if planned.integer else ("float", as_float)
            inputs = tuple(form(t) for t in op.inputs)
            outputs = tuple(value(t, t, encodings[plan.group_of[t]] if planned.integer else None) for t in op.outputs)
            steps.append(Instruction(op.name, step_kind, inputs, outputs, {"target": op.kind, **op.attrs}, scope=op.scope))
            continue
        weight = weight_encoding = bias = None
        if kind.output_grid:
            encoding = encodings[plan.group_of[op.output]]
            grid = KERNELS[plan.target.kernels].quantize(parameter(op.params[kind.output_grid]), encoding)
            weight = (grid + encoding.zero_point).astype(encoding.dtype)
        elif "gamma" in kind.params:
            width = plan.graph.tensors[op.output].shape[-1] or 1
            weight, bias = (
                parameter(op.params[role]) if role in op.params else np.full(width, fill, f32)
                for role, fill in (("gamma", 1.0), ("beta", 0.0))
            )
        elif planned.weight is not None or planned.stored:
            weight, scale, bias = integers(planned)
            weight_encoding = _weight_encoding(planned, scale)
        form = as_float if kind.indices or planned.stored else on_grid
        inputs = tuple(form(t) for t in op.inputs)
        if planned.stored:
            output, clamp = value(op.output, op.output, None), None
        else:
            if weight is not None and weight_encoding is not None:
                _say_widened(planned, scale, weight)
            output = on_grid(op.output)
            clamp = clamp_of(encodings[plan.group_of[op.output]], planned.activation)
        steps.append(
            Instruction(
                op.name,
                op.kind,
                inputs,
                (output,),
                {k: v for k, v in op.attrs.items() if k != "channel_axis"},
                weight,
                weight_encoding,
                bias,
                planned.activation,
                clamp,
                op.scope,
                "static" if planned.integer else planned.mode,
                planned.packed,
                planned.kernels,
            )
        )
    outputs = tuple(as_float(t) for t in plan.graph.outputs)
    return Program(
        name=plan.graph.name,
        layout=plan.graph.layout,
        kernels=plan.target.kernels,
        target=plan.target.name,
        recipe=plan.recipe.name,
        inputs=plan.graph.inputs,
        outputs=outputs,
        values=values,
        instructions=tuple(steps),
        block=block,
        bias=plan.target.bias,
        strict_qdq=plan.target.strict_qdq,
    )


def _weight_encoding(planned: PlannedOp, scale: np.ndarray) -> Encoding | None:
    if planned.weight is None:
        return None
    # TFLite's own kernels for such weights read one scale a channel, whatever the file holds.
    always = planned.kernels.startswith("builtin")
    per_channel = always or planned.weight.granularity == "channel" or not bool(np.all(scale == scale[0]))
    return Encoding(
        scale.astype(f32) if per_channel else np.asarray(scale[0], f32),
        0, -planned.qmax, planned.qmax, 0 if per_channel else None,
    )  # fmt: skip


def clamp_of(encoding: Encoding, activation: str | None) -> tuple[int, int]:
    """Return the limits of an output in its integers: the type's, narrowed by the fused activation."""
    lo, hi = (
        None if end is None else int(np.rint(f32(end) / f32(encoding.scale))) + encoding.zero_point for end in bounds(activation)
    )
    return (
        encoding.qmin if lo is None else max(lo, encoding.qmin),
        encoding.qmax if hi is None else min(hi, encoding.qmax),
    )


def _say_widened(planned: PlannedOp, scale: np.ndarray, weight: np.ndarray) -> None:
    """Report channels whose weight scale was widened for their bias: their largest integer is below the type's."""
    peak = np.abs(weight.astype(np.int32)).reshape(weight.shape[0], -1).max(1)
    if planned.weight is not None and planned.weight.granularity == "tensor":
        peak = np.full_like(peak, peak.max())
    widened = int((peak < planned.qmax).sum())
    if widened:
        log.warning(
            "%s: the bias of %d of %d channels is large against their weights; their weight scale was widened to hold it",
            planned.op.scope or planned.op.name, widened, len(peak),
        )  # fmt: skip

"""Lowering, the part that both frameworks share: a plan and its integers become a :class:`qat.program.program.Program`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

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
    writer = _Writer(plan, encodings)
    for planned in plan.ops:
        if planned.keeps_framework:
            writer.keep(planned)
        else:
            writer.add(planned, _parameters(planned, writer, integers, parameter))
    outputs = tuple(writer.as_float(t) for t in plan.graph.outputs)
    return Program(
        name=plan.graph.name,
        layout=plan.graph.layout,
        kernels=plan.target.kernels,
        target=plan.target.name,
        recipe=plan.recipe.name,
        inputs=plan.graph.inputs,
        outputs=outputs,
        values=writer.values,
        instructions=tuple(writer.steps),
        block=block,
        bias=plan.target.bias,
        strict_qdq=plan.target.strict_qdq,
        scopes={name: p.op.layer for p in plan.ops for name in (f"{p.op.name}.weight", *p.op.outputs)},
    )


class _Weight(NamedTuple):
    """The parameters of an instruction."""

    weight: np.ndarray | None = None
    encoding: Encoding | None = None
    bias: np.ndarray | None = None


class _Writer:
    """The values and instructions written so far. A border is written where its first reader is."""

    def __init__(self, plan: Plan, encodings: Mapping[str, Encoding]) -> None:
        self.plan, self.encodings = plan, encodings
        self.values: dict[str, Value] = {}
        self.steps: list[Instruction] = []
        for tensor in plan.graph.inputs:
            self._declare(tensor, tensor, None)

    def encoding(self, tensor: str) -> Encoding:
        """Return the encoding of a tensor on the grid."""
        return self.encodings[self.plan.group_of[tensor]]

    def _declare(self, name: str, tensor: str, encoding: Encoding | None) -> str:
        spec = self.plan.graph.tensors[tensor]
        self.values.setdefault(name, Value(name, spec.shape, encoding, spec.dtype, example=spec.example))
        return name

    def on_grid(self, tensor: str) -> str:
        """Return the name of a tensor's integers."""
        name = grid_value_name(self.plan, tensor)
        if name not in self.values:
            self._declare(name, tensor, self.encoding(tensor))
            if tensor in self.plan.quantize:
                self.steps.append(Instruction(f"quantize_{tensor}", "quantize", (tensor,), (name,)))
        return name

    def as_float(self, tensor: str) -> str:
        """Return the name of a tensor's real values."""
        name = real_value_name(self.plan, tensor)
        if name not in self.values:
            self._declare(name, tensor, None)
            if tensor in self.plan.dequantize:
                self.steps.append(Instruction(f"dequantize_{tensor}", "dequantize", (self.on_grid(tensor),), (name,)))
        return name

    def keep(self, planned: PlannedOp) -> None:
        """Write an operator that its framework runs: in float, or a data movement of integers."""
        op = planned.op
        kind, form = ("move", self.on_grid) if planned.integer else ("float", self.as_float)
        inputs = tuple(form(t) for t in op.inputs)
        outputs = tuple(self._declare(t, t, self.encoding(t) if planned.integer else None) for t in op.outputs)
        self.steps.append(Instruction(op.name, kind, inputs, outputs, {"target": op.kind, **op.attrs}, scope=op.scope))

    def add(self, planned: PlannedOp, parameters: _Weight) -> None:
        """Write an operator of the runtime's own: an integer kernel, or one whose weight alone is stored in another form."""
        op = planned.op
        form = self.as_float if planned.stored or KINDS[op.kind].indices else self.on_grid
        inputs = tuple(form(t) for t in op.inputs)
        output = self._declare(op.output, op.output, None) if planned.stored else self.on_grid(op.output)
        self.steps.append(
            Instruction(
                op.name,
                op.kind,
                inputs,
                (output,),
                {name: value for name, value in op.attrs.items() if name != "channel_axis"},
                parameters.weight,
                parameters.encoding,
                parameters.bias,
                planned.activation,
                None if planned.stored else clamp_of(self.encoding(op.output), planned.activation),
                op.scope,
                "static" if planned.integer else planned.mode,
                planned.packed,
                planned.kernels,
                op.params.get("weight", ""),
            )
        )


def _parameters(planned: PlannedOp, writer: _Writer, integers: Integers, parameter: Parameter) -> _Weight:
    """Return an operator's parameters in the form that its kernel reads."""
    op, kind = planned.op, KINDS[planned.op.kind]
    if planned.tied:
        weight, scale, _ = integers(planned)
        return _Weight(weight, _weight_encoding(planned, scale))
    if kind.output_grid:
        encoding = writer.encoding(op.output)
        grid = KERNELS[writer.plan.target.kernels].quantize(parameter(op.params[kind.output_grid]), encoding)
        held = (grid + encoding.zero_point).astype(encoding.dtype)
        return _Weight(held.reshape(op.attrs["shape"]) if "shape" in op.attrs else held)
    if "gamma" in kind.params:  # float32, of a norm, which may have neither
        width = writer.plan.graph.tensors[op.output].shape[op.attrs.get("axis", -1)] or 1
        gamma, beta = (
            parameter(op.params[role]).ravel() if role in op.params else np.full(width, fill, f32)
            for role, fill in (("gamma", 1.0), ("beta", 0.0))
        )
        return _Weight(gamma, None, beta)
    if not kind.linear:
        return _Weight()
    weight, scale, bias = integers(planned)
    if planned.integer:
        _say_widened(planned, weight)
    return _Weight(weight, _weight_encoding(planned, scale), bias)


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


def _say_widened(planned: PlannedOp, weight: np.ndarray) -> None:
    """Report channels whose weight scale was widened for their bias: their largest integer is below the type's."""
    peak = np.abs(weight.astype(np.int32)).reshape(weight.shape[0], -1).max(1)
    if planned.weight is not None and planned.weight.granularity == "tensor":
        peak = np.full_like(peak, peak.max())
    widened = int((peak < planned.qmax).sum())
    if widened:
        log.warning(
            "%s: the bias of %d of %d channels is large against their weights; their weight scale was widened to hold it",
            planned.op.layer, widened, len(peak),
        )  # fmt: skip

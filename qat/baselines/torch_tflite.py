"""Baselines of a PyTorch model as ``.tflite``: this toolkit's own float file, and AI Edge Quantizer on it.

The float file is the one that the recipe ``float16`` gives, with the weights in float32: the same operators, and images as NHWC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from qat.adapters import torch as adapter
from qat.adapters.torch.nodes.stored_weight import StoredWeight
from qat.adapters.torch.prepared_model import SCOPE
from qat.exporters.exporter import exporter_of
from qat.graph.decompose.conv1d import signals_as_images
from qat.graph.decompose.for_target import for_target
from qat.graph.fold_batch_norm import fold_batch_norm
from qat.graph.kinds import STEPS
from qat.graph.recognition.recognise import recognise
from qat.planning.planner import plan
from qat.planning.recipe import load_recipe
from qat.planning.targets import load_target
from qat.program.layout import to_layout
from qat.program.program import Instruction
from qat.runtimes import TFLITE
from qat.system.silence import quiet

from . import ai_edge
from .baseline import Maker, Sample

FORMAT = TFLITE
FLOAT_TOOL = "qat"


@dataclass(frozen=True)
class _Exported:
    """A float file, the names of its inputs, and the order in which it takes the axes of each."""

    raw: bytes
    names: tuple[str, ...]
    axes: tuple[tuple[int, ...] | None, ...]


def makers(model: torch.nn.Module, example: Sample, batches: list[Sample], per_channel: bool) -> list[Maker]:
    """Return a maker for each baseline, the float model's first. The float model is exported once."""

    @cache
    def exported() -> _Exported:
        return _export(model, example)

    def turned() -> list[Sample]:
        axes = exported().axes
        return [tuple(x if a is None else x.transpose(a) for x, a in zip(batch, axes, strict=True)) for batch in batches]

    raw: Callable[[], bytes] = lambda: exported().raw  # noqa: E731
    return [
        Maker("float", FLOAT_TOOL, "float32", raw, "float"),
        *(_by_name(maker, exported, turned) for maker in ai_edge.makers(raw, turned, ())),
    ]


def _by_name(maker: Maker, exported: Callable[[], _Exported], turned: Callable[[], list[Sample]]) -> Maker:
    """Return the maker with the names of the inputs, which are known once the float file is."""

    def make() -> bytes:
        found = exported()
        named = {m.name: m for m in ai_edge.makers(lambda: found.raw, turned, found.names)}
        return named[maker.name].make()

    return replace(maker, make=make)


def float_bytes(model: torch.nn.Module, example: Sample) -> bytes:
    """Return a float model as the bytes of a ``.tflite``, with a dynamic batch and images as NHWC."""
    return _export(model, example).raw


def _export(model: torch.nn.Module, example: Sample) -> _Exported:
    target = load_target("litert")
    training = model.training
    try:
        with quiet():
            traced = adapter.trace(model.eval(), tuple(torch.from_numpy(np.array(x)) for x in example))
            whole, known, _ = recognise(traced.graph, traced.params, traced.fixed, lambda op: False)
            graph, params, _ = fold_batch_norm(signals_as_images(whole), known)
            prepared = adapter.insert(
                traced, plan(for_target(graph, target.kinds, lambda op: ""), load_recipe("float16"), target), params
            )
            program = adapter.lower(prepared)

            def in_float(instruction: Instruction) -> Instruction:
                planned = next((p for p in prepared.plan.ops if p.op.name == instruction.name and p.stored), None)
                if planned is None or instruction.weight is None:
                    return instruction
                node = prepared.get_submodule(f"{SCOPE}.nodes.{planned.op.name}")
                weight = prepared.tensor(planned.op.params["weight"])
                weight = node.program_layout(weight) if isinstance(node, StoredWeight) else weight  # an embedding has its lines
                return replace(instruction, weight=weight.detach().cpu().float().numpy())

            program = replace(program, instructions=tuple(in_float(i) for i in program.instructions))
            of_images = any(STEPS[i.kind].layout == "kernel" for i in program.instructions)
            exporter = exporter_of(TFLITE)
            laid = exporter.legalize(to_layout(program, TFLITE.layout, "NHWC" if of_images else None))
            raw = exporter.write(laid, "float32")
    finally:
        model.train(training)
    names = laid.input_names or laid.inputs
    return _Exported(raw, tuple(names), tuple(laid.values[name].axes for name in laid.inputs))

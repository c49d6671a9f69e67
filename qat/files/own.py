"""A float model, quantized by this toolkit: calibrated, trained without labels at will, exported and proved."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qat import api
from qat.errors import OptionError
from qat.exporters import refuse_unwritable
from qat.planning.plan import Plan
from qat.report.statistics import error_percent
from qat.trainers.output_losses import choose

from .bounded import bounded
from .calibrated import CALIBRATING, HELD_OUT, Trial, calibrated
from .distance import agreement_percent
from .held_out import held_out
from .inputs import batches, unpacked
from .opened import Opened
from .request import Request, Start
from .result import QuantizedFile

log = logging.getLogger("qat")

#: A float file with fewer bytes than these a weight does not hold all of them in float32.
_SPARED = 3.0
#: The methods that may follow calibration.
_STARTS: dict[Start, Callable[..., Any]] = {"adaround": api.adaround, "brecq": api.reconstruct}


def quantized(opened: Opened, request: Request, path: Path, source: str) -> QuantizedFile:
    """Quantize an opened model into a file."""
    started = time.perf_counter()
    recipe = request.full_recipe()
    if request.start is not None and not any(rule.mode == "static" for rule in recipe.rules):
        raise OptionError(
            "start", f"{request.start} learns for integer kernels, and recipe '{recipe.name}' has no static rule: leave start out"
        )
    kept, held = parts_of(opened)
    trial = Trial.of(opened, request, kept)
    ranges = bounded(calibrated(trial), trial, kept)
    prepared = ranges.model
    if request.start is not None:
        _STARTS[request.start](prepared, unpacked(kept[: -(-CALIBRATING // opened.batch)]))
        trial.centred(prepared, trial.off(prepared))
    before = opened.outputs(opened.model, held)
    losses, steps = {}, 0
    if request.trains:
        refuse_unwritable(prepared, path.suffix, request.io_dtype)
        history = api.finetune(
            prepared, unpacked(kept), unpacked(held), labels="none", seed=request.seed, progress=request.progress,
            **request.training_length(),
        )  # fmt: skip
        losses, steps = dict(history.losses), history.steps
    artifact = api.export(prepared, path, unpacked(held), request.io_dtype, request.overwrite)
    if artifact.bytes > opened.bytes > 0:
        log.warning("%s is larger than the float file: %s", path.name, _why_larger(opened, prepared))
    after = opened.outputs(prepared, held)
    kinds = choose({str(i): y for i, y in enumerate(before)}, None, opened.suffix == ".onnx")
    return QuantizedFile(
        source=source, path=path, tool="qat", recipe=recipe.name, float_bytes=opened.bytes, bytes=artifact.bytes,
        error_percent=error_percent(after, before), agreement=agreement_percent(after, before, kinds),
        exact=None if artifact.parity is None else artifact.parity.exact, quantized=_counted(prepared.plan),
        data=opened.samples.said, losses=losses, steps=steps, unrounded=ranges.unrounded, precise=ranges.precise,
        precision=ranges.precision, estimator=ranges.estimator or "",
        seconds=time.perf_counter() - started, plan=prepared.plan,
        comparison=held_out(opened, path.name, held, before, after, kinds),
    )  # fmt: skip


def parts_of(opened: Opened) -> tuple[list[tuple[np.ndarray, ...]], list[tuple[np.ndarray, ...]]]:
    """Return the batches to learn from, and those held out: the last eighth of the samples; of one batch both are the same."""
    out = max(len(opened.samples) // HELD_OUT, opened.batch)
    kept = tuple(x[: len(x) - out] if len(x) > out else x for x in opened.samples.arrays)
    held = tuple(x[-out:] for x in opened.samples.arrays)
    return batches(kept, opened.batch, opened.samples.axes), batches(held, opened.batch, opened.samples.axes)


def _why_larger(opened: Opened, prepared: Any) -> str:
    """Return why a quantized file is larger than the float one."""
    names = {name for planned in prepared.plan.ops for name in planned.op.params.values()}
    numbers = sum(opened.adapter.parameter(prepared, name).size for name in names)
    if opened.bytes < _SPARED * numbers:
        return f"that one holds its {numbers:,} weights sparse or in few bits, and integers are written for all of them"
    return f"its {numbers:,} weights are few, and quantizing each of {len(prepared.plan.ops)} operators takes room, too"


def _counted(plan: Plan) -> tuple[int, int]:
    """Return how many operators run in integers or from stored weights, and of how many."""
    return sum(p.integer or bool(p.stored) for p in plan.ops), len(plan.ops)

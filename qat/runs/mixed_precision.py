"""Mixed precision by a configuration: sensitivities and points are measured on its validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.analysis.mixed.mixed_precision import Minimized, check, mixed_precision
from qat.analysis.mixed.result import MixedPrecision

from . import float_model
from .data import RunData
from .job import Job


@dataclass(frozen=True)
class Wishes:
    """What a user asks of mixed precision: the arguments of :func:`qat.mixed_precision` of the same names."""

    minimize: Minimized = "size"
    max_drop: float | None = None
    max_bytes: int | None = None
    max_ms: float | None = None
    points: int = 5
    choices: Sequence[str] | None = None
    latencies: Path | None = None
    overwrite: bool = False

    def arguments(self) -> Mapping[str, Any]:
        """Return the arguments by name."""
        return vars(self)


def choose(job: Job, folder: Path, samples: int, wishes: Wishes) -> MixedPrecision:
    """Choose the precisions of a job's float model, on at most so many samples of its validation data."""
    check(job.target, folder, **wishes.arguments())
    data, c = job.stage("data", lambda: RunData(job.config, job.base)), job.config
    with job.alone():
        model = job.stage("float model", lambda: float_model.trained(job, data))
        return mixed_precision(
            model.model, data.batches("validation", limit=samples), folder, recipe=job.recipe, target=job.target,
            calibration=data.calibration(), estimator=c.calibration.estimator, example_inputs=data.example(),
            metrics=c.training.metrics, latency_runs=c.latency_runs, io_dtype=c.io_dtype, **wishes.arguments(),
        )  # fmt: skip

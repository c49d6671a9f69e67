"""The artifact of some choices: calibrated, treated and trained as they say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from qat import api
from qat.calibration.calibrate import set_ranges
from qat.exporters import Artifact, refuse_unwritable
from qat.frameworks import has_plan
from qat.runs import stages
from qat.runs.data import RunData
from qat.runs.float_model import FloatModel
from qat.runs.job import Job
from qat.runs.metadata import metadata_of
from qat.system.samples import first_of_pair
from qat.typing import PreparedModel

from .choices import Choices

#: Validation samples on which every artifact is held against its model, value by value.
_VERIFIED = 256


def folder_of(job: Job, step: str) -> Path:
    """Return the folder of a step's artifact."""
    return job.folder / "steps" / step


def calibrated(job: Job, data: RunData, model: FloatModel, choices: Choices, first: bool) -> PreparedModel:
    """Return the calibrated model of some choices; the notices are those of the ``first`` alone, since all have the same."""
    config = choices.configured(job.config)
    with _notices(first):
        prepared = model.captured.prepare(choices.recipe, config.equalize, config.keep_zeros)
        pairs, source = data.calibration_pairs()
        samples = [first_of_pair(batch, len(prepared.plan.graph.inputs) if has_plan(prepared) else 1) for batch in pairs]
        if has_plan(prepared):
            seen = replace(set_ranges(prepared, pairs, config.calibration.estimator), source=source)
            if first:
                job.console.print(f"  calibration saw {seen.line()}", style="dim")
            seen.log()
        else:
            api.calibrate(prepared, samples, config.calibration.estimator)
        return api.correct_biases(prepared, samples) if choices.bias_correction else prepared


def build(job: Job, data: RunData, model: FloatModel, step: str, choices: Choices, training: Mapping[str, Any]) -> Artifact:
    """Return the artifact of some choices in the folder of its step, verified on validation samples.

    Args:
        job, data, model: of the search.
        step: its name.
        choices: what is built.
        training: options of training, where there is any.

    Raises:
        QatError: the choices do not fit the model, or a training fails or is stopped.
    """
    prepared = calibrated(job, data, model, choices, first=step == "ptq")
    if choices.adaround:
        api.adaround(prepared, data.calibration())
    if choices.reconstruct:
        api.reconstruct(prepared, data.calibration())
    if choices.training != "none":
        refuse_unwritable(prepared, job.target.suffix, job.config.io_dtype)
        variant = replace(job, config=choices.configured(job.config, **training), checkpoints=job.checkpoints / step)
        stages.finetune(variant, data, prepared, model.model, "qat")
    made = api.export(
        prepared, folder_of(job, step) / f"{step}{job.target.suffix}", data.batches("validation", limit=_VERIFIED),
        job.config.io_dtype, overwrite=True, metadata=metadata_of(data, job.base),
    )  # fmt: skip
    return replace(made, kind="ptq" if choices.training == "none" else "qat")


@contextmanager
def _notices(shown: bool) -> Iterator[None]:
    log = logging.getLogger("qat")
    before = log.level
    if not shown:
        log.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        log.setLevel(before)

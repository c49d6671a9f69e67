"""A job from its beginning to its end: whole, its PTQ baselines alone, its training alone, or the export of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from qat import api
from qat.errors import ConfigError, at
from qat.exporters import Artifact, refuse_unwritable
from qat.report.report import Report
from qat.runtimes.model_file import ModelFile
from qat.trainers import History
from qat.trainers.metrics import shown
from qat.typing import Layout, PreparedModel

from . import float_model, stages
from .beginning import hold_to_beginning
from .data import RunData
from .job import Job
from .metadata import metadata_of
from .story import story_of


def execute(job: Job) -> Report:
    """Make everything that the configuration asks for, and return the comparison.

    Raises:
        ConfigError: the target has no artifacts that could be compared.
    """
    c = job.config
    if not job.target.suffix:
        raise ConfigError(
            f"target: '{c.target}' has no runtime, and a run ends in artifacts that are compared: use qat train, or another "
            "target"
        )
    job.console.print(Text.assemble((c.name, "bold"), f": {c.framework}, recipe {c.recipe}"))
    data = _data(job)
    with job.alone():
        return _everything(job, data)


def _everything(job: Job, data: RunData) -> Report:
    c = job.config
    job.keep_earlier_run()
    hold_to_beginning(job)
    model = job.stage("float model", lambda: float_model.trained(job, data))
    entries: list[ModelFile] = []
    if c.ptq:
        entries += job.stage("PTQ baselines", lambda: stages.baselines(job, data, model))
    prepared, seen = job.stage("prepare and calibrate", lambda: stages.calibrated(job, data, model))
    if c.ptq:
        made = job.stage("calibrate-only artifact", lambda: stages.artifact(job, data, prepared, "calibrated", "ptq"))
        entries.append(made)
    if not c.ptq or c.outputs is not None:
        _refuse_unwritable(job, prepared)
    histories = {"QAT": job.stage("QAT", lambda: stages.finetune(job, data, prepared, model.model, "qat"))}
    entries.append(job.stage("export and verify", lambda: stages.artifact(job, data, prepared, "qat", "qat")))
    if c.outputs is not None:  # a file of its own: comparisons are of all outputs
        few = "export of the outputs to keep"
        made = job.stage(few, lambda: stages.artifact(job, data, prepared, "qat_outputs", "qat", c.outputs))
        job.console.print(f"  written: {made.path}, with the outputs {', '.join(c.outputs)}")
    if c.control:
        control, history = job.stage("float control, the same extra steps", lambda: stages.control(job, data, model.model))
        entries.append(control)
        histories["control"] = history
    report = job.stage("comparison", lambda: stages.compare(job, data, entries))
    return replace(report, story=story_of(job, data, prepared, seen, histories, report))


def compare_baselines(job: Job) -> Report:
    """Make the PTQ baselines alone, and return their comparison."""
    data = _data(job)
    with job.alone():
        model = job.stage("float model", lambda: float_model.trained(job, data))
        entries = job.stage("PTQ baselines", lambda: stages.baselines(job, data, model))
        return stages.compare(job, data, entries)


@dataclass(frozen=True)
class Trained:
    """A training on its own.

    Attributes:
        best: the weights of the best epoch.
        before: the metrics on the validation data, of the float model and of the calibrated one.
        history: of the training.
    """

    best: Path
    before: Mapping[str, Mapping[str, float]]
    history: History

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        before = {name: dict(metrics) for name, metrics in self.before.items()}
        return {"best": str(self.best), **self.history.to_dict(), **before}


def train(job: Job) -> Trained:
    """Train alone."""
    data = _data(job)
    with job.alone():
        return _training(job, data)


def _training(job: Job, data: RunData) -> Trained:
    job.keep_earlier_run()
    hold_to_beginning(job)
    model = job.stage("float model", lambda: float_model.trained(job, data))
    prepared = job.stage("prepare and calibrate", lambda: stages.prepare(job, data, model))
    measured = {"float": model.model, "calibrated": prepared}
    before = {name: stages.evaluate(job, data, m, model.model) for name, m in measured.items()}
    if job.target.suffix:  # a target that only simulates has no artifacts
        _refuse_unwritable(job, prepared)
    history = job.stage("QAT", lambda: stages.finetune(job, data, prepared, model.model, "qat"))
    for name, values in before.items():
        job.console.print(f"  {name}: {shown(values)} on the validation data")
    epoch = f"trained, epoch {history.best_epoch} of {len(history.epochs)}"
    job.console.print(Text.assemble((f"  {epoch}: {shown(history.best)}", "bold"), " on the validation data"))
    return Trained(job.best_checkpoint, before, history)


def export_checkpoint(
    job: Job, checkpoint: Path, path: Path, overwrite: bool, layout: Layout | None = None, outputs: Sequence[str] | None = None
) -> Artifact:
    """Export the model of a checkpoint that :func:`train` wrote, and verify it on the test split.

    ``outputs`` are those to keep; None: those of the configuration, by default all.
    """
    data, c = RunData(job.config, job.base), job.config
    prepared = api.prepare(float_model.untrained(job), data.example(), job.recipe, c.target, c.model.dynamic)
    metadata = metadata_of(data, job.base)
    return api.export(
        api.load_prepared(prepared, checkpoint),
        path,
        data.batches("test"),
        c.io_dtype,
        overwrite,
        layout,
        metadata,
        outputs=outputs or c.outputs,
    )


def _refuse_unwritable(job: Job, prepared: PreparedModel) -> None:
    """Raise before training what the export would raise after it."""
    try:
        refuse_unwritable(prepared, job.target.suffix, job.config.io_dtype, job.config.outputs)
    except ConfigError as error:
        raise at("outputs", error) from error


def _data(job: Job) -> RunData:
    return job.stage("data", lambda: RunData(job.config, job.base))

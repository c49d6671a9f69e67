"""The stages of a job: from a float model to a prepared one, trained, exported and held against its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from qat import api
from qat.baselines import Baseline, float_baseline
from qat.calibration.calibrate import set_ranges
from qat.calibration.evidence import Evidence
from qat.exporters import Artifact
from qat.frameworks import has_plan
from qat.report.compare import Comparable
from qat.report.report import Report
from qat.runtimes.model_file import FileKind, ModelFile
from qat.system.samples import first_of_pair
from qat.trainers import Epoch, History
from qat.trainers.metrics import shown
from qat.typing import Model, PreparedModel

from . import float_files
from .config import OwnFloatModel
from .data import RunData
from .float_model import FloatModel
from .job import Job
from .metadata import metadata_of


def prepare(job: Job, data: RunData, model: FloatModel) -> PreparedModel:
    """Return the prepared model from which training starts."""
    return calibrated(job, data, model)[0]


def calibrated(job: Job, data: RunData, model: FloatModel, start: bool = True) -> tuple[PreparedModel, Evidence | None]:
    """Return the calibrated prepared model, and what calibration saw; None of a model without a plan.

    With ``start`` its blocks are reconstructed where the configuration has training start from there.
    """
    c = job.config
    prepared = model.captured.prepare(job.recipe, c.equalize, c.keep_zeros)
    pairs, source = data.calibration_pairs()
    samples = [first_of_pair(batch, len(prepared.plan.graph.inputs) if has_plan(prepared) else 1) for batch in pairs]
    seen = None
    if has_plan(prepared):
        seen = replace(set_ranges(prepared, pairs, c.calibration.estimator), source=source)
        job.console.print(f"  calibration saw {seen.line()}", style="dim")
        seen.log(checked=True)
    else:
        api.calibrate(prepared, samples, c.calibration.estimator)
    if c.calibration.bias_correction:
        api.correct_biases(prepared, samples)
    return api.reconstruct(prepared, samples) if start and c.calibration.reconstruction else prepared, seen


def baselines(job: Job, data: RunData, model: FloatModel) -> list[ModelFile]:
    """Return the PTQ baselines, the float file first; last this toolkit's own AdaRound and BRECQ, where they are asked for."""
    source = float_files.artifact_of(job.config, job.base) or model.model
    made = api.ptq_baselines(
        source, data.calibration(), job.artifacts, example_inputs=data.example(), per_channel=job.config.per_channel,
        overwrite=True, target=job.target,
    )  # fmt: skip
    own = {"adaround": (job.config.adaround, api.adaround), "brecq": (job.config.brecq, api.reconstruct)}
    methods = {name: method for name, (wanted, method) in own.items() if wanted}
    rounded = {name: method(calibrated(job, data, model, start=False)[0], data.calibration()) for name, method in methods.items()}
    return [*made, *(artifact(job, data, prepared, name, "ptq") for name, prepared in rounded.items())]


def finetune(job: Job, data: RunData, model: Model, float_model: Model, kind: Literal["qat", "control"]) -> History:
    """Fine-tune by the configuration's options."""
    options = job.training_options(job.config.training)
    options |= {"teacher": _teacher(job, float_model)} | job.checkpoint_options(kind)
    if kind == "control":
        options |= {"tensorboard": None, "artifact_every": None}
    else:
        options["on_epoch"] = lambda epoch: _print_epoch(job, epoch)
    return api.finetune(model, data.training(options["seed"]), data.batches("validation"), **options)


def evaluate(job: Job, data: RunData, model: Model, float_model: Model) -> dict[str, float]:
    """Return a model's metrics on the validation data, as training measures them."""
    c = job.config.training
    validation, teacher = data.batches("validation"), _teacher(job, float_model)
    return api.evaluate(model, validation, metrics=c.metrics, labels=c.labels, teacher=teacher)


def artifact(
    job: Job, data: RunData, prepared: PreparedModel, name: str, kind: FileKind, outputs: Sequence[str] | None = None
) -> Artifact:
    """Export a model, with all or the named outputs, into the folder of the artifacts, and verify it on the test split."""
    path = job.artifacts / f"{job.config.framework}_{name}{job.target.suffix}"
    made = api.export(
        prepared,
        path,
        verify=data.batches("test"),
        io_dtype=job.config.io_dtype,
        overwrite=True,
        metadata=metadata_of(data, job.base),
        outputs=outputs,
    )
    return replace(made, kind=kind)


def control(job: Job, data: RunData, model: Model) -> tuple[Baseline, History]:
    """Return the file of the float model, fine-tuned for the same steps on the same data, and that training's record."""
    copied = float_files.clone(job.config.framework, model)
    history = finetune(job, data, copied, model, "control")
    made = float_baseline(copied, data.example(), job.artifacts, name="float_control", kind="control", target=job.target)
    return made, history


def compare(job: Job, data: RunData, entries: Sequence[Comparable] | Mapping[str, Comparable]) -> Report:
    """Compare files and models on the test split."""
    c = job.config
    return api.compare(
        entries, data.batches("test"), dataset=data.name, framework=c.framework, latency_runs=c.latency_runs,
        metrics=c.training.metrics,
    )  # fmt: skip


def _teacher(job: Job, float_model: Model) -> Model | None:
    return float_model if isinstance(job.config.training.teacher, OwnFloatModel) else None


def _print_epoch(job: Job, epoch: Epoch) -> None:
    parts = [f"epoch {epoch.number}/{job.config.training.epochs}: loss {epoch.loss:.4g}", shown(epoch.metrics)]
    parts += [f"the artifact in its runtime: {shown(epoch.artifact)}"] if epoch.artifact else []
    job.console.print(f"  {'; '.join(parts)}", style="dim")

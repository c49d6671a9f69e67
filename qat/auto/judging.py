"""Artifacts held against the float model on the validation data, by which a search goes on or stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat import api
from qat.display.progress import length
from qat.errors import DataError
from qat.report.report import Report
from qat.report.running import run_all
from qat.runs.data import RunData
from qat.runs.dataset import Split
from qat.runs.job import Job
from qat.runtimes import open_session
from qat.runtimes.model_file import ModelFile
from qat.system.sample_sets import as_pair
from qat.system.samples import first_of_pair
from qat.trainers.metric import Metric, samples_of
from qat.trainers.metrics import METRICS, MetricSpec
from qat.trainers.output_losses import choose

from .goal import Figures, in_points


@dataclass(frozen=True)
class Judge:
    """Holds artifacts against the float model.

    Attributes:
        job, data: of the configuration.
        file: the float model's.
        metric: that decides.
        metrics: all that are measured; None where they follow from the labels.
        taught: whether the float model's own answers take the labels' place.
        score: the float model's, on the validation data.
        finest: the loss that the validation data cannot exclude even of a file that equals the float one.
    """

    job: Job
    data: RunData
    file: ModelFile
    metric: Metric
    metrics: Sequence[MetricSpec] | None
    taught: bool
    score: float
    finest: float
    samples: int

    def figures(self, artifact: ModelFile) -> Figures:
        """Return an artifact's figures on the validation data."""
        report = self.report([self.file, artifact], "validation", latency_runs=0)
        return figures_of(report, artifact.name, self.metric)

    def report(self, files: Sequence[ModelFile], split: Split, latency_runs: int) -> Report:
        """Return the comparison of files on a part of the data."""
        batches = self.data.batches(split)
        if self.taught:
            batches = _taught(self.file, self.data, split, self.metric)
        return api.compare(
            files, batches, dataset=self.data.name, framework=self.job.config.framework, latency_runs=latency_runs,
            metrics=self.metrics,
        )  # fmt: skip

    def some(self, most: int) -> list[Any]:
        """Return batches of validation samples, ``most`` or a few more, with the right answers beside them."""
        taught = _taught(self.file, self.data, "validation", self.metric) if self.taught else None
        kept: list[Any] = []
        seen = 0
        for batch in self.data.batches("validation") if taught is None else taught:
            if seen >= most:
                break
            kept.append(as_pair(batch))
            seen += samples_of(kept[-1])
        return kept

    def share_of_test(self) -> float:
        """Return how many times as long a pass over the test data takes as one over the validation data."""
        test, validation = (length(self.data.batches(split)) for split in ("test", "validation"))
        return 1.0 if test is None or not validation else test / validation

    @property
    def apart(self) -> bool:
        """Whether the test data are others than the validation data."""
        parts = getattr(self.data.dataset, "parts", None)
        return parts is None or parts["test"] is not parts["validation"]


def judge_of(job: Job, data: RunData, file: ModelFile) -> Judge:
    """Return what holds artifacts against a float file.

    With labels the configuration's first metric decides, or that which follows from the labels. Without labels, or where no
    metric fits them, the float model's own answers take their place: the share of equal answers of a classifier, else the share
    of the outputs' variance that the artifact explains.

    Raises:
        DataError: a metric does not fit the data.
    """
    own = job.config.training.metrics
    wanted: Sequence[MetricSpec] | None = None if own is None else tuple(own)
    twin = ModelFile(**{**vars(file), "name": "float again"})
    if data.labelled:
        report = _compared(job, data, [file, twin], data.batches("validation"), wanted)
        if report.metric is not None:
            return _judge(job, data, file, report, wanted, taught=False)
    metric = _metric_without_labels(job, data, file)
    report = _compared(job, data, [file, twin], _taught(file, data, "validation", metric), [metric])
    return _judge(job, data, file, report, [metric], taught=True)


def _compared(job: Job, data: RunData, files: Sequence[ModelFile], batches: Any, metrics: Any) -> Report:
    return api.compare(files, batches, dataset=data.name, framework=job.config.framework, latency_runs=0, metrics=metrics)


def _judge(job: Job, data: RunData, file: ModelFile, report: Report, metrics: Sequence[MetricSpec] | None, taught: bool) -> Judge:
    metric, (first, again) = report.metric, report.entries
    assert metric is not None
    score = first.score(metric)
    if score is None:
        raise DataError(f"the float model has no {metric.name} on the validation data: name another metric in training.metrics")
    ends = [end for end in (again.delta_low, again.delta_high) if end is not None]
    return Judge(job, data, file, metric, metrics, taught, score, max(map(abs, ends), default=0.0), report.n_eval)


def figures_of(report: Report, name: str, metric: Metric) -> Figures:
    """Return an entry's figures in a metric, against those of the float file."""
    entry = next(e for e in report.entries if e.name == name)
    base = next(e for e in report.entries if e.kind == "float")
    score, reference = entry.score(metric), base.score(metric)
    assert score is not None and reference is not None
    sqnr = entry.sqnr if entry.sqnr is not None and np.isfinite(entry.sqnr) else None
    return Figures(
        metric.name, score, reference, score - reference, entry.delta_low, entry.delta_high, entry.p_float, sqnr, report.n_eval
    )


@dataclass(frozen=True)
class _Taught:
    """Batches of inputs with the float model's answers in the place of labels."""

    inputs: tuple[Any, ...]
    answers: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(self.inputs, self.answers, strict=True))


def _taught(file: ModelFile, data: RunData, split: Split, metric: Metric) -> _Taught:
    inputs, outputs = _answers(file, data, split)
    if metric.name == "top1":
        return _Taught(inputs, tuple(out[0].argmax(-1) for out in outputs))
    return _Taught(inputs, tuple(out[0] if len(out) == 1 else out for out in outputs))


def _answers(file: ModelFile, data: RunData, split: Split) -> tuple[tuple[Any, ...], Sequence[tuple[np.ndarray, ...]]]:
    assert file.path is not None
    count = len(open_session(file.path).inputs)
    inputs = tuple(first_of_pair(as_pair(batch), count) for batch in data.batches(split))
    (run,) = run_all([file], inputs, 0)
    assert run.outputs is not None
    return inputs, run.outputs


def _metric_without_labels(job: Job, data: RunData, file: ModelFile) -> Metric:
    """Return the metric against the float model's answers: one of the configuration that is a share, else by the outputs."""
    named = next(
        (m for m in job.config.training.chosen_metrics or () if in_points(m) and m.name.partition(" ")[0] != "top1"), None
    )
    if named is not None:
        return Metric(**{**vars(named), "to_float": False})
    _, outputs = _answers(file, data, "validation")
    joined = {str(i): np.concatenate(parts) for i, parts in enumerate(zip(*outputs, strict=True))}
    losses = choose(joined, None, file.path is not None and file.path.suffix == ".onnx").each
    classes = len(losses) == 1 and losses[0].name == "kl" and joined["0"].ndim == 2
    return METRICS["top1"] if classes else EXPLAINED


def _squares(outputs: Any, taught: Any) -> np.ndarray:
    """Return for each sample and output: the squared error, the sum and the sum of squares of float's values, their number."""
    pairs = zip(*((x if isinstance(x, tuple) else (x,)) for x in (outputs, taught)), strict=True)
    rows = []
    for found, wanted in pairs:
        y, t = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (found, wanted))
        rows.append(np.stack([np.square(y - t).sum(1), t.sum(1), np.square(t).sum(1), np.full(len(t), float(t.shape[1]))], 1))
    return np.stack(rows, 1)


def _explained(rows: np.ndarray) -> float:
    """Return the share of the float outputs' variance that is explained, in percent; the least of several outputs'."""
    error, total, squares, count = rows.sum(0).T
    variance = np.maximum(squares - np.square(total) / count, 1e-12 * np.maximum(squares, 1e-30))
    return float(100 * (1 - error / variance).min())


#: Of outputs that are no classes: 100 % is the float model itself, 99.5 % an SQNR of 23 dB about the outputs' mean.
EXPLAINED = Metric("explained", _squares, unit=" %", title="variance explained", total=_explained)

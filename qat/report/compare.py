"""Comparison: every artifact in its own runtime, never the simulation, on the same validation data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from qat.baselines import float_baseline
from qat.display.progress import bar, length, shown
from qat.errors import DataError, ExportError
from qat.exporters import export
from qat.frameworks import has_plan, input_count, is_prepared
from qat.runtimes.model_file import ModelFile
from qat.system.samples import batches_of, first_of_pair
from qat.trainers.metric import Metric, samples_of
from qat.trainers.metric_functions import IGNORED
from qat.trainers.metrics import MetricSpec, chosen, default_metrics, to_float
from qat.trainers.named_outputs import named
from qat.typing import Array, Batches, Inputs, Model

from . import statistics
from .decision import best_of, decide, integer_ptq
from .differences import differences
from .entry import Entry
from .html.plots import Histogram
from .labels import inputs_of, labels_of
from .records import distinct_names, record_of
from .report import Report
from .running import Run, run_all, turned
from .samples import Chooser, class_axis

#: What is compared: a record, a path, or a model.
Comparable: TypeAlias = ModelFile | str | Path | Model
#: A figure besides the metrics: takes the outputs of all samples and their labels.
Figure: TypeAlias = Callable[[Any, Any], float]


def compare(
    entries: Sequence[Comparable] | Mapping[str, Comparable],
    data: Batches,
    *,
    dataset: str = "data",
    framework: str | None = None,
    latency_runs: int = 50,
    metrics: Iterable[MetricSpec] | Mapping[str, Figure] | None = None,
    progress: bool = True,
) -> Report:
    """Run artifacts, each in its own runtime, on the same data.

    Args:
        entries: Artifacts, Baselines (one of kind ``float`` is the reference), paths, or models. A model is exported to a
            temporary file first, so that it, too, is judged in its runtime. The first float model is the reference; without
            any, the first entry. Images are transposed for an artifact that takes them in the other layout. A dictionary gives
            the names by which the report calls them; of a list, files of one name are told apart by their folders.
        data: batches of ``(inputs, labels)``, or of inputs alone: then metrics are distances to the reference's outputs.
            Several inputs or labels are a tuple, ``((a, b), labels)``, or a dictionary by the inputs' names.
        dataset: the data's name in the report.
        framework: the framework's name in the report; None takes the first entry's.
        latency_runs: timed runs of each artifact at batch 1 on one thread, in turn; 0 for none.
        metrics: the metrics of :func:`qat.finetune`, see :func:`qat.trainers.metrics.metric`: names
            (:data:`qat.trainers.metrics.METRICS`), ``package.module:function``, functions ``(outputs, labels)`` of a batch that
            return one value a sample or one for the batch, or mappings with options. The first one that is held against labels
            decides. None chooses by the labels: top-1 for class numbers, right pixels and mean IoU for maps of them, MSE and MAE
            for numbers of the outputs' shape. A dictionary adds figures by name to those, functions of ``(outputs, labels)`` of
            all samples. A model with several outputs gives a tuple of them, which has their names too.
        progress: as for :func:`qat.calibrate`.

    Returns:
        An entry for each artifact, and one sentence of what follows: whether PTQ is enough.

    Raises:
        ConfigError: there is no such metric.
        DataError: no entries, no data, a label out of range, or outputs and labels that do not fit a metric.
        RuntimeMismatchError: an artifact gives NaN.
        QatError: an artifact is missing or corrupt.

    Examples:
        >>> import numpy as np, qat, torch
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> net = torch.nn.Linear(4, 3)
        >>> model = qat.calibrate(qat.prepare(net, x), [x])
        >>> labels = net(torch.from_numpy(x)).argmax(1).numpy()
        >>> report = qat.compare([net, model], [(x, labels)], latency_runs=0)
        >>> [(entry.kind, entry.top1) for entry in report.entries][:1]
        [('float', 100.0)]
    """
    if not entries:
        raise DataError("there is nothing to compare: pass at least one artifact")
    batches = iter(batches_of(data, "the data of the comparison"))
    first = next(batches, None)
    if first is None:
        raise DataError("the comparison got no data: pass at least one batch of (inputs, labels)")
    wanted = None if metrics is None or isinstance(metrics, Mapping) else chosen(metrics)
    own: Mapping[str, Figure] = metrics if isinstance(metrics, Mapping) else {}
    given = tuple(entries.values() if isinstance(entries, Mapping) else entries)
    with shown(progress), bar("comparison"), tempfile.TemporaryDirectory() as folder:
        count = next((n for entry in given if (n := _input_count(entry)) is not None), 1)
        example = first_of_pair(first, count)
        target = "litert" if all(suffix == ".tflite" for suffix in _suffixes(given)) else None
        files = [_file_of(entry, example, Path(folder) / str(i), target) for i, entry in enumerate(given)]
        paths = [file.path if isinstance(entry, (str, Path)) else None for entry, file in zip(given, files, strict=True)]
        names = tuple(entries) if isinstance(entries, Mapping) else distinct_names([file.name for file in files], paths)
        files = [replace(file, name=name) for file, name in zip(files, names, strict=True)]
        answers: list[Any] = []
        chooser = Chooser(files)
        runs = run_all(
            files, inputs_of(chain([first], batches), count, answers), latency_runs, length(data),
            lambda inputs, outputs: chooser.see(inputs, answers[-1], outputs),
        )  # fmt: skip
        labels = labels_of(answers)
        name = framework or next((file.framework for file in files if file.framework), "")
        made, examined = _Comparison(runs, labels, wanted, own), chooser.examined
        return replace(made.report(name, dataset), samples=chooser.chosen(), examined=examined, errors=made.errors(examined))


def _suffixes(entries: Sequence[Comparable]) -> list[str]:
    """Return the suffixes of the files and prepared models: a float model beside them becomes a file of the same kind."""
    paths = [Path(e) if isinstance(e, (str, Path)) else e.path for e in entries if isinstance(e, (str, Path, ModelFile))]
    return [p.suffix for p in paths if p is not None] + [
        e.plan.target.suffix for e in entries if is_prepared(e) and has_plan(e)
    ] or [""]


def _input_count(entry: Comparable) -> int | None:
    """Return the number of inputs of an entry; None where its tool failed."""
    from qat.runtimes import open_session

    if isinstance(entry, ModelFile):
        return None if entry.path is None else len(open_session(entry.path).inputs)
    if isinstance(entry, (str, Path)):
        return len(open_session(entry).inputs)
    return input_count(entry)


def _file_of(entry: Comparable, inputs: Inputs | Array, folder: Path, target: str | None) -> ModelFile:
    """Return the record of an entry; a model is exported. Raises CaptureError for anything else."""
    if isinstance(entry, ModelFile):
        return entry
    if isinstance(entry, (str, Path)):
        return record_of(Path(entry))
    if is_prepared(entry):
        return export(entry, folder / f"qat{entry.plan.target.suffix if has_plan(entry) else '.tflite'}")
    written = float_baseline(entry, inputs, folder, target=target)
    if written.path is None:
        raise ExportError(f"the float model cannot be exported on this data: {written.error}")
    return written


class _Comparison:
    """What was run, and how it is measured."""

    def __init__(
        self, runs: Sequence[Run], labels: Sequence[Any] | None, wanted: tuple[Metric, ...] | None, own: Mapping[str, Figure]
    ) -> None:
        self.runs, self.labels, self.own = [_as_labelled(run, labels) for run in runs], labels, own
        self.ran = [run for run in self.runs if run.outputs is not None]
        self.reference = next((run for run in self.ran if run.file.kind == "float"), self.ran[0] if self.ran else None)
        # Those of this toolkit's file are the model's own; a converter may have made others of them.
        names = (run.names for run in sorted(self.ran, key=lambda run: run.file.kind != "qat"))
        self.names = [(name,) for name in next(names, ())]
        if own and labels is None:
            raise DataError("figures need labels: yield (inputs, labels) pairs")
        self.measured = wanted or ()
        for of_batch in labels or ():
            samples_of(of_batch)
        if wanted is None and self.reference is not None and labels is not None:
            self.measured = default_metrics(self._batches(self.reference)[0], labels[0])
        if labels is None:
            self.measured = tuple(map(to_float, self.measured))
        self.first = next((m for m in self.measured if not m.to_float), None)
        self.samples = sum(samples_of(out[0]) for out in (self.ran[0].outputs or ())) if self.ran else 0
        if self.first is not None and self.first.name in ("top1", "top5"):
            self._check_labels()
        self.totals = statistics.Totals()
        self.values = {id(run): {m.name: self._values(run, m) for m in self.measured} for run in self.ran}

    def _batches(self, run: Run) -> list[Any]:
        """Return the outputs of each batch as a metric takes them."""
        return [named(self.names, outputs) for outputs in run.outputs or ()]

    def _check_labels(self) -> None:
        for run in self.ran:
            outputs, largest = self._batches(run)[0], self._largest()
            if isinstance(outputs, np.ndarray) and largest is not None and largest >= outputs.shape[-1]:
                raise DataError(f"label {largest} is out of range: {run.file.name} has {outputs.shape[-1]} outputs")

    def _largest(self) -> int | None:
        flat = [y for y in self.labels or () if isinstance(y, np.ndarray) and y.dtype.kind in "iu" and y.ndim == 1]
        return max((int(y.max()) for y in flat), default=None)

    def _values(self, run: Run, m: Metric) -> np.ndarray:
        """Return a metric's values, a row a sample; of one that gives a value a batch, a row a batch, by its samples' share."""
        assert self.reference is not None
        labels = self._batches(self.reference) if m.to_float else self.labels
        assert labels is not None
        parts = []
        for index, (outputs, wanted) in enumerate(zip(self._batches(run), labels, strict=True)):
            count = samples_of(outputs)
            values = m.of_batch(outputs, wanted, f"batch {index} of {run.file.name}")
            single = m.streams and len(values) == 1 < count
            parts.append(values * (count * len(labels) / self.samples) if single else values)
        return m.of_all(parts)

    def report(self, framework: str, dataset: str) -> Report:
        """Return the figures of every run, and the decision."""
        first = self.first
        entries = [self._entry(run) for run in self.runs]
        if first is not None:
            best = best_of(integer_ptq(entries), first)
            found = next((run for run, e in zip(self.runs, entries, strict=True) if e is best), None)
            if found is not None:
                entries = [self._against_ptq(run, e, found, first) for run, e in zip(self.runs, entries, strict=True)]
        hits = first is not None and statistics.are_hits([self.values[id(run)][first.name] for run in self.ran])
        commonest = self._commonest() if first is not None and first.name in ("top1", "pixel_accuracy") else 0.0
        decision = decide(entries, self.samples, commonest, first, hits)
        name, is_float = ("", True) if self.reference is None else (self.reference.file.name, self.reference.file.kind == "float")
        return Report(framework, dataset, self.samples, tuple(entries), decision, name, is_float, self.measured)

    def errors(self, examined: str) -> Histogram | None:
        """Return how the outputs of a file differ from the reference's; None without both."""
        run = next((run for run in self.ran if run.file.name == examined), None)
        if run is None or self.reference is None:
            return None
        return differences(examined, self.reference.file.name, run.joined(), self.reference.joined())

    def _commonest(self) -> float:
        """Return the share of the most frequent class, in percent."""
        arrays = [y.argmax(-1) if y.dtype.kind == "f" else y for y in self.labels or () if isinstance(y, np.ndarray)]
        flat = np.concatenate([y.reshape(-1) for y in arrays])
        flat = flat if arrays[0].ndim == 1 else flat[~np.isin(flat, IGNORED)]
        return float(100 * np.unique(flat, return_counts=True)[1].max() / len(flat)) if len(flat) else 0.0

    def _against_ptq(self, run: Run, entry: Entry, best: Run, first: Metric) -> Entry:
        if id(run) not in self.values:
            return entry
        mine, theirs = (self.values[id(r)][first.name] for r in (run, best))
        found = statistics.difference(first, mine, theirs, self.totals)
        return entry if found is None else replace(entry, p_best_ptq=found.p)

    def _entry(self, run: Run) -> Entry:
        record = {name: vars(run.file)[name] for name in ModelFile.__dataclass_fields__}
        if run.outputs is None or run.file.path is None:
            return Entry(**record)
        size = run.file.path.stat().st_size
        p50, p95 = run.latency or (None, None)
        metrics = {m.name: m.total(self.values[id(run)][m.name]) for m in self.measured}
        if self.own:
            labels = _joined(self.labels or ())
            metrics |= {name: float(figure(named(self.names, run.joined()), labels)) for name, figure in self.own.items()}
        figures: dict[str, Any] = {
            "top1": metrics.get("top1"),
            "latency_p50": p50,
            "latency_p95": p95,
            "metrics": metrics,
        }
        reference = self.reference
        if reference is not None and reference.file.path is not None:
            figures["size_ratio"] = reference.file.path.stat().st_size / size
            figures |= self._against(run, reference)
        return Entry(**record | figures | {"bytes": size})

    def _against(self, run: Run, reference: Run) -> dict[str, float | None]:
        """Return the figures that hold a run against the reference."""
        figures: dict[str, float | None] = {}
        if self.first is not None:
            first = self.first
            mine, theirs = (self.values[id(r)][first.name] for r in (run, reference))
            figures["delta"] = first.total(mine) - first.total(theirs)
            found = statistics.difference(first, mine, theirs, self.totals)
            if found is not None:
                figures |= {"delta_low": found.low, "delta_high": found.high, "p_float": found.p}
        outputs, wanted = run.joined(), reference.joined()
        if [out.shape for out in outputs] != [out.shape for out in wanted]:
            return figures
        a, b = (np.concatenate([out.reshape(-1) for out in found]) for found in (wanted, outputs))
        figures |= {"mse": float(((a - b).astype(np.float64) ** 2).mean()), "sqnr": statistics.sqnr(a, b)}
        axis = self._class_axis(wanted)
        if axis is not None:
            figures["agreement"] = statistics.agreement(outputs[0], wanted[0], axis)
            figures["drift"] = statistics.confidence_drift(outputs[0], wanted[0], axis)
        return figures

    def _class_axis(self, outputs: Sequence[np.ndarray]) -> int | None:
        """Return the axis of the first output that holds class scores; None where its values are no scores of classes."""
        if any(m.whole is not None for m in self.measured):  # embeddings, which are held against each other
            return None
        return class_axis(outputs[0], None if self.labels is None else self.labels[0])


def _as_labelled(run: Run, labels: Sequence[Any] | None) -> Run:
    """Return a run whose images lie as the labels do, where those are images."""
    if labels is None or not run.outputs or len(run.outputs[0]) != 1 or not isinstance(labels[0], np.ndarray):
        return run
    return replace(run, outputs=[(turned(out[0], y.shape),) for out, y in zip(run.outputs, labels, strict=True)])


def _joined(labels: Sequence[Any]) -> Any:
    """Return the labels of all batches together."""
    if isinstance(labels[0], Mapping):
        return {name: np.concatenate([y[name] for y in labels]) for name in labels[0]}
    if isinstance(labels[0], tuple):
        return tuple(np.concatenate(parts) for parts in zip(*labels, strict=True))
    return np.concatenate(labels)

"""Comparison: every artifact in its own runtime, never the simulation, on the same validation data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from qat.baselines import float_baseline
from qat.errors import DataError, ExportError
from qat.exporters import export
from qat.frameworks import has_plan, is_prepared
from qat.runtimes.model_file import ModelFile
from qat.system.samples import batches_of
from qat.typing import Array, Batches, Inputs, Model

from . import statistics
from .decision import decide
from .entry import Entry, Report
from .running import Run, run_all

#: Takes the outputs of all samples and their labels.
Metric: TypeAlias = Callable[[np.ndarray, np.ndarray], float]


def compare(
    entries: Sequence[ModelFile | str | Path | Model],
    data: Batches,
    *,
    dataset: str = "data",
    framework: str | None = None,
    latency_runs: int = 50,
    metrics: Mapping[str, Metric] | None = None,
) -> Report:
    """Run artifacts, each in its own runtime, on the same labelled data.

    Args:
        entries: Artifacts, Baselines (one of kind ``float`` is the reference), paths, or models. A model is exported to a
            temporary file first, so that it, too, is judged in its runtime. The first float model is the reference; without
            any, the first entry. Images are transposed for an artifact that takes them in the other layout.
        data: batches of ``(inputs, labels)``; labels are class numbers ``[n]``.
        dataset: the data's name in the report.
        framework: the framework's name in the report; None takes the first entry's.
        latency_runs: timed runs of each artifact at batch 1 on one thread, in turn; 0 for none.
        metrics: further figures by name, each a function of ``(outputs, labels)`` of all samples.

    Returns:
        An entry for each artifact, and one sentence of what follows: whether PTQ is enough.

    Raises:
        DataError: no entries, no data, or a label out of range.
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
    batches: list[Any] = list(batches_of(data, "the data of the comparison"))
    if not batches:
        raise DataError("the comparison got no data: pass at least one batch of (inputs, labels)")
    if any(not isinstance(batch, (tuple, list)) or len(batch) != 2 for batch in batches):
        raise DataError("the comparison needs labels: yield (inputs, labels) pairs")
    labels = np.concatenate([np.asarray(y).reshape(-1) for _, y in batches])
    with tempfile.TemporaryDirectory() as folder:
        files = [_file_of(entry, batches[0][0], Path(folder) / str(i)) for i, entry in enumerate(entries)]
        runs = run_all(files, batches, latency_runs)
        for run in runs:
            if run.outputs is not None and int(labels.max()) >= run.outputs.shape[-1]:
                raise DataError(f"label {int(labels.max())} is out of range: {run.file.name} has {run.outputs.shape[-1]} outputs")
        name = framework or next((file.framework for file in files if file.framework), "")
        return _report(runs, labels, name, dataset, metrics or {})


def _file_of(entry: ModelFile | str | Path | Model, inputs: Inputs | Array, folder: Path) -> ModelFile:
    """Return the record of an entry; a model is exported. Raises CaptureError for anything else."""
    if isinstance(entry, ModelFile):
        return entry
    if isinstance(entry, (str, Path)):
        return ModelFile(name=Path(entry).stem, kind="ptq", path=Path(entry))
    if is_prepared(entry):
        return export(entry, folder / f"qat{entry.plan.target.suffix if has_plan(entry) else '.tflite'}")
    written = float_baseline(entry, inputs, folder)
    if written.path is None:
        raise ExportError(f"the float model cannot be exported on this data: {written.error}")
    return written


def _report(runs: Sequence[Run], labels: np.ndarray, framework: str, dataset: str, own: Mapping[str, Metric]) -> Report:
    ran = [run for run in runs if run.outputs is not None]
    reference = next((run for run in ran if run.file.kind == "float"), ran[0] if ran else None)
    best = _best_ptq(ran, labels)
    entries = tuple(_entry(run, labels, reference, best, own) for run in runs)
    commonest = 100 * np.unique(labels, return_counts=True)[1].max() / len(labels)
    decision = decide(entries, len(labels), float(commonest))
    name, to_float = ("", True) if reference is None else (reference.file.name, reference.file.kind == "float")
    return Report(framework, dataset, len(labels), entries, decision, name, to_float)


def _best_ptq(ran: Sequence[Run], labels: np.ndarray) -> np.ndarray | None:
    """Return the outputs of the most accurate PTQ in integers."""
    found = [run.outputs for run in ran if run.file.kind == "ptq" and "float16" not in run.file.recipe]
    return max((out for out in found if out is not None), key=lambda outputs: statistics.top1(outputs, labels), default=None)


def _entry(run: Run, labels: np.ndarray, reference: Run | None, best: np.ndarray | None, own: Mapping[str, Metric]) -> Entry:
    record, out = vars(run.file), run.outputs
    record = {name: record[name] for name in ModelFile.__dataclass_fields__}
    if out is None or run.file.path is None:
        return Entry(**record)
    size = run.file.path.stat().st_size
    p50, p95 = run.latency or (None, None)
    figures: dict[str, Any] = {
        "top1": statistics.top1(out, labels),
        "p_best_ptq": None if best is None else statistics.mcnemar(out, best, labels),
        "latency_p50": p50,
        "latency_p95": p95,
        "metrics": {name: float(metric(out, labels)) for name, metric in own.items()},
    }
    if reference is not None and reference.outputs is not None and reference.file.path is not None:
        figures["size_ratio"] = reference.file.path.stat().st_size / size
        if reference.outputs.shape == out.shape:
            figures |= _against(out, reference.outputs, labels)
    return Entry(**record | figures | {"bytes": size})


def _against(out: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the figures that hold outputs against those of the reference."""
    return {
        "delta": statistics.top1(out, labels) - statistics.top1(reference, labels),
        "delta_low": statistics.difference_interval(out, reference, labels)[0],
        "agreement": statistics.agreement(out, reference),
        "p_float": statistics.mcnemar(out, reference, labels),
        "drift": statistics.confidence_drift(out, reference),
        "mse": float(((out - reference).astype(np.float64) ** 2).mean()),
        "sqnr": statistics.sqnr(reference, out),
    }

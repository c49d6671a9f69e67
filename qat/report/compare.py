"""Comparison: every artifact in its own runtime, never the simulation, on the same validation data."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qat.baselines import float_baseline
from qat.errors import DataError, ExportError, RuntimeMismatchError
from qat.exporters import export
from qat.frameworks import framework_of, is_prepared
from qat.program.layout import LAYOUTS, permutation
from qat.runtimes import TensorInfo, open_session
from qat.system.samples import batches_of

from . import statistics as metrics
from .decision import decide
from .entry import Entry, Report

#: Takes the outputs of all samples and their labels.
Metric = Callable[[np.ndarray, np.ndarray], float]


def compare(
    entries: Sequence[Any],
    data: Iterable[Any],
    *,
    dataset: str = "data",
    framework: str | None = None,
    latency_runs: int = 50,
    metrics: Mapping[str, Metric] | None = None,
) -> Report:
    """Run artifacts on the same data.

    Args:
        entries: Artifacts, Baselines (one of kind ``float`` is the reference), paths, or models: a model is exported to a
            temporary file first, so that it, too, is judged in its runtime. The first float model is the reference, without
            any the first entry. Images are turned for an artifact that takes them in the other layout.
        data: batches of ``(inputs, labels)``.
        dataset: the data's name.
        framework: None takes the first entry's.
        latency_runs: timed runs of each artifact at batch 1, in turn; 0 for none.
        metrics: further figures by name, each a function of ``(outputs, labels)``.

    Raises:
        DataError: no entries, no data, or a label out of range.
        RuntimeMismatchError: an artifact gives NaN.
        QatError: an artifact is missing or corrupt.
    """
    if not entries:
        raise DataError("there is nothing to compare: pass at least one artifact")
    batches = list(batches_of(data, "the data of the comparison"))
    if not batches:
        raise DataError("the comparison got no data: pass at least one batch of (inputs, labels)")
    if any(not isinstance(batch, (tuple, list)) or len(batch) != 2 for batch in batches):
        raise DataError("the comparison needs labels: yield (inputs, labels) pairs")
    with tempfile.TemporaryDirectory() as folder:
        described = [_describe(e, batches[0][0], Path(folder) / str(i)) for i, e in enumerate(entries)]
        return _compare(described, batches, dataset, framework, latency_runs, metrics or {})


def _compare(
    described: list[_Described], batches: list[Any], dataset: str, framework: str | None, runs: int, own: Mapping[str, Metric]
) -> Report:
    labels = np.concatenate([np.asarray(y).reshape(-1) for _, y in batches])
    sessions = [None if d.path is None else open_session(d.path, threads=1) for d in described]
    described = [
        d if s is None or d.axes else replace(d, axes=_turns(s.inputs, d.fed(batches[0][0])))
        for s, d in zip(sessions, described, strict=True)
    ]
    outputs = [None if s is None else _outputs(s, batches, d) for s, d in zip(sessions, described, strict=True)]
    for d, o in zip(described, outputs, strict=True):
        if o is not None and int(labels.max()) >= o.shape[-1]:
            raise DataError(f"label {int(labels.max())} is out of range: {d.name} has {o.shape[-1]} outputs")
    latencies = _latencies(sessions, described, batches[0][0], runs)
    pairs = list(zip(described, outputs, strict=True))
    run = [(d, o) for d, o in pairs if d.path is not None]
    against, reference = next((pair for pair in run if pair[0].kind == "float"), run[0] if run else (None, None))
    size = None if against is None or against.path is None else against.path.stat().st_size
    best = _best_ptq(described, outputs, labels)
    rows = []
    for (d, o), latency in zip(pairs, latencies, strict=True):
        entry = _entry(d, o, labels, reference, None if best is None else best[1], latency)
        if o is not None:
            extra = {name: float(metric(o, labels)) for name, metric in own.items()}
            entry = replace(entry, metrics=extra, size_ratio=None if size is None else size / entry.bytes)
        rows.append(entry)
    name = framework or next((d.framework for d in described if d.framework), "")
    decision = decide(rows, len(labels), float(100 * np.unique(labels, return_counts=True)[1].max() / len(labels)))
    to_float = against is None or against.kind == "float"
    return Report(name, dataset, len(labels), tuple(rows), decision, "" if against is None else against.name, to_float)


@dataclass(frozen=True)
class _Described:
    name: str
    kind: str
    tool: str
    recipe: str
    framework: str
    path: Path | None
    parity: Any
    error: str | None
    axes: tuple[Any, ...] = ()

    def fed(self, inputs: Any) -> tuple[np.ndarray, ...]:
        """Return a batch's inputs as the artifact takes them."""
        arrays = tuple(np.asarray(a, np.float32) for a in (inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
        axes = self.axes or (None,) * len(arrays)
        return tuple(a if turn is None else a.transpose(turn) for a, turn in zip(arrays, axes, strict=True))


def _describe(entry: Any, inputs: Any, folder: Path) -> _Described:
    if isinstance(entry, (str, Path)):
        return _Described(Path(entry).stem, "ptq", "", "", "", Path(entry), None, None)
    if not hasattr(entry, "path"):
        entry = _exported(entry, inputs, folder)
    return _Described(
        entry.name, entry.kind, entry.tool, entry.recipe, entry.framework, entry.path, entry.parity,
        getattr(entry, "error", None), getattr(entry, "axes", ()),
    )  # fmt: skip


def _exported(model: Any, inputs: Any, folder: Path) -> Any:
    """Return an artifact of a model, prepared or float. Raises CaptureError for anything else."""
    framework = framework_of(model)
    if is_prepared(model):
        suffix = ".tflite" if framework == "tf_keras" else model.plan.target.suffix
        return export(model, folder / f"qat{suffix}")
    written = float_baseline(model, inputs, folder)
    if written.path is None:
        raise ExportError(f"the float model cannot be exported on this data: {written.error}")
    return written


def _turns(infos: Sequence[TensorInfo], arrays: Sequence[np.ndarray]) -> tuple[tuple[int, ...] | None, ...]:
    """Return for each input the axes that turn the data's images into the artifact's, where they fit in the other layout only."""

    def fits(info: TensorInfo, shape: Sequence[int]) -> bool:
        return len(info.shape) == len(shape) and all(want in (None, n) for want, n in zip(info.shape[1:], shape[1:], strict=True))

    def turn(info: TensorInfo, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        ways = (None, *(permutation(len(shape), source, target) for source, target in (LAYOUTS, LAYOUTS[::-1])))
        return next((w for w in ways if fits(info, shape if w is None else [shape[a] for a in w])), None)

    return tuple(turn(i, a.shape) for i, a in zip(infos, arrays, strict=True)) if len(arrays) == len(infos) else ()


def _outputs(session: Any, batches: list[Any], described: _Described) -> np.ndarray:
    parts = []
    for inputs, _ in batches:
        try:
            parts.append(session.run(*described.fed(inputs))[0])
        except DataError as error:
            raise DataError(f"{described.path}: {error}") from error
    out = np.concatenate(parts)
    if np.isnan(out).any():
        raise RuntimeMismatchError(f"{described.path} gives NaN: check the float model's weights and the data")
    return out


def _latencies(sessions: list[Any], described: list[_Described], inputs: Any, runs: int) -> list[tuple[float, float] | None]:
    """Time the artifacts in turn, so that a change of the machine's speed meets all of them; each is fed what its file takes."""
    ones = [
        () if session is None else session.stored(*(a[:1] for a in d.fed(inputs)))
        for session, d in zip(sessions, described, strict=True)
    ]
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(runs + 5 if runs else 0):
        for session, one, taken in zip(sessions, ones, times, strict=True):
            if session is None:
                continue
            started = time.perf_counter()
            session.invoke(*one)
            if turn >= 5:  # the first turns warm up
                taken.append(1e3 * (time.perf_counter() - started))
    return [(float(np.median(t)), float(np.percentile(t, 95))) if t else None for t in times]


def _is_int8(described: _Described) -> bool:
    return described.kind == "ptq" and "float16" not in described.recipe


def _best_ptq(described: list[_Described], outputs: list[Any], labels: np.ndarray) -> tuple[float, np.ndarray] | None:
    scored = [(metrics.top1(o, labels), o) for d, o in zip(described, outputs, strict=True) if o is not None and _is_int8(d)]
    return max(scored, key=lambda pair: pair[0], default=None)


def _entry(d: _Described, out: Any, labels: np.ndarray, reference: Any, best: Any, latency: Any) -> Entry:
    if out is None or d.path is None:
        return Entry(d.name, d.kind, d.tool, d.recipe, None, 0, error=d.error)
    top1 = metrics.top1(out, labels)
    same = reference is not None and reference.shape == out.shape
    p50, p95 = latency or (None, None)
    return Entry(
        name=d.name, kind=d.kind, tool=d.tool, recipe=d.recipe, path=d.path, bytes=d.path.stat().st_size, top1=top1,
        delta=top1 - metrics.top1(reference, labels) if same else None,
        delta_low=metrics.difference_interval(out, reference, labels)[0] if same else None,
        agreement=metrics.agreement(out, reference) if same else None,
        p_float=metrics.mcnemar(out, reference, labels) if same else None,
        p_best_ptq=metrics.mcnemar(out, best, labels) if best is not None else None,
        drift=metrics.confidence_drift(out, reference) if same else None,
        mse=float(((out - reference).astype(np.float64) ** 2).mean()) if same else None,
        sqnr=metrics.sqnr(reference, out) if same else None,
        latency_p50=p50, latency_p95=p95, parity=d.parity, error=d.error,
    )  # fmt: skip

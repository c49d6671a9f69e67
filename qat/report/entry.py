"""The figures of a comparison: an entry for each file, and the report of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qat.runtimes.model_file import ModelFile
from qat.trainers.metrics import METRICS, Metric


@dataclass(frozen=True, kw_only=True)
class Entry(ModelFile):
    """The figures of one file, and its record: :class:`qat.runtimes.model_file.ModelFile` has ``name``, ``kind``, ``path``, ...

    Every figure is None where it is not known. "Reference" is the report's: the float file, if there is one. "The metric" is
    the report's first: ``top1`` for class numbers.

    Attributes:
        top1: the accuracy, in percent; None where it is not among the metrics.
        delta: the metric less that of the reference, in its unit; in percentage points for shares.
        delta_low, delta_high: the 95 % interval of ``delta``.
        agreement: the share of samples (of a map: pixels) for which the file and the reference choose the same class, in percent.
        p_float: McNemar's p against the reference; of a paired bootstrap where the metric has no hits and misses.
        p_best_ptq: likewise against the best 8-bit PTQ.
        drift: the mean change of the largest probability against the reference.
        mse: the mean squared difference of the outputs from those of the reference.
        sqnr: the signal-to-quantization-noise ratio of the outputs against the reference, in dB.
        latency_p50, latency_p95: median and 95th percentile at batch 1 on one thread, in milliseconds.
        size_ratio: the reference's bytes over this file's.
        metrics: every metric by name, and the caller's own figures.
    """

    top1: float | None = None
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None
    agreement: float | None = None
    p_float: float | None = None
    p_best_ptq: float | None = None
    drift: float | None = None
    mse: float | None = None
    sqnr: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None
    size_ratio: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def score(self, metric: Metric | None) -> float | None:
        """Return the entry's value of a metric; None where it is not known."""
        if metric is None:
            return None
        return self.top1 if metric.name == "top1" and self.top1 is not None else self.metrics.get(metric.name)


@dataclass(frozen=True)
class Report:
    """A comparison of files on the same data.

    Attributes:
        framework, dataset: their names.
        n_eval: the number of samples.
        entries: in the order given.
        decision: one sentence: whether PTQ is enough, or QAT is needed, in which metric, and the figures that say so.
        reference: the name of the entry that the others are held against.
        against_float: whether the reference is a float model; else it is the first entry that runs.
        measured: the metrics that the table shows, the one that decides first; empty where the data has no labels or no metric
            fits them: only distances to the reference are known then.
    """

    framework: str
    dataset: str
    n_eval: int
    entries: tuple[Entry, ...]
    decision: str
    reference: str = ""
    against_float: bool = True
    measured: tuple[Metric, ...] = (METRICS["top1"],)

    @property
    def metric(self) -> Metric | None:
        """The metric that decides."""
        return self.measured[0] if self.measured else None

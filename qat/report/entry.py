"""The figures of one file in a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qat.runtimes.model_file import ModelFile
from qat.trainers.metric import Metric


@dataclass(frozen=True, kw_only=True, repr=False)
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

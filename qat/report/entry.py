"""The figures of a comparison: an entry for each file, and the report of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qat.runtimes.model_file import ModelFile


@dataclass(frozen=True, kw_only=True)
class Entry(ModelFile):
    """The figures of one file, and its record: :class:`qat.runtimes.model_file.ModelFile` has ``name``, ``kind``, ``path``, ...

    Every figure is None where it is not known. "Reference" is the report's: the float file, if there is one.

    Attributes:
        top1: the accuracy, in percent.
        delta: ``top1`` less that of the reference, in percentage points.
        delta_low: the lower end of the 95 % interval of ``delta``.
        agreement: the share of samples for which the file and the reference choose the same class, in percent.
        p_float: McNemar's p against the reference.
        p_best_ptq: McNemar's p against the best 8-bit PTQ.
        drift: the mean change of the largest probability against the reference.
        mse: the mean squared difference of the outputs from those of the reference.
        sqnr: the signal-to-quantization-noise ratio of the outputs against the reference, in dB.
        latency_p50, latency_p95: median and 95th percentile at batch 1 on one thread, in milliseconds.
        size_ratio: the reference's bytes over this file's.
        metrics: the caller's own figures, by name.
    """

    top1: float | None = None
    delta: float | None = None
    delta_low: float | None = None
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


@dataclass(frozen=True)
class Report:
    """A comparison of files on the same data.

    Attributes:
        framework, dataset: their names.
        n_eval: the number of samples.
        entries: in the order given.
        decision: one sentence: whether PTQ is enough, or QAT is needed, and the figures that say so.
        reference: the name of the entry that the others are held against.
        against_float: whether the reference is a float model; else it is the first entry that runs.
    """

    framework: str
    dataset: str
    n_eval: int
    entries: tuple[Entry, ...]
    decision: str
    reference: str = ""
    against_float: bool = True

"""Metrics of an evaluation: names, or functions ``(outputs, labels) -> values``, one value a sample or one for the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from qat.errors import ConfigError, DataError, nearest

from . import metric_functions as functions
from .metric_functions import bit_accuracy, mae, mse, pixel_accuracy, psnr, ssim, top1, top5

#: A metric ``(outputs, labels) -> values`` on arrays: one value a sample, or one for the batch. Of a model with several outputs
#: the first argument is a tuple (or what the model returns), of several labels the second.
MetricFunction: TypeAlias = Callable[[Any, Any], ArrayLike]


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


@dataclass(frozen=True)
class Metric:
    """A metric: its name, its function, whether more of it is better, its unit, its title in a table.

    ``total`` makes the metric of the values of all samples; it is their mean but for F1, R2 and others of whole data sets.
    """

    name: str
    values: MetricFunction
    higher_is_better: bool = True
    unit: str = ""
    title: str = ""
    total: Callable[[np.ndarray], float] = _mean

    @property
    def is_mean(self) -> bool:
        """Whether the metric is the mean of its samples' values."""
        return self.total is _mean

    @property
    def heading(self) -> str:
        """The title with its unit, for a table's column."""
        return f"{self.title or self.name}{self.unit}"

    def shown(self, value: float, sign: str = "") -> str:
        """Return a value with its unit, as text; ``sign`` is ``+`` for a difference."""
        return f"{value:{sign}.2f}{self.unit}" if self.unit else f"{value:{sign}.4g}"

    def of_batch(self, outputs: Any, labels: Any, where: str) -> np.ndarray:
        """Return the values of a batch, a row a sample; a single row where the function gives one value for the batch.

        Raises:
            DataError: outputs and labels do not fit the metric.
        """
        try:
            values = np.asarray(self.values(outputs, labels), np.float64)
        except (ValueError, IndexError, AttributeError, TypeError, np.exceptions.AxisError) as error:
            found = f"outputs {_shapes(outputs)}, labels {_shapes(labels)}"
            raise DataError(f"metric '{self.name}' does not take {where} ({found}): {error}") from error
        if not self.is_mean:
            return values
        return values.reshape(1) if values.ndim == 0 else values.reshape(len(values), -1).mean(1)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("top1", top1, unit=" %", title="top-1"),
        Metric("top5", top5, unit=" %", title="top-5"),
        Metric("f1", functions.pair_counts, unit=" %", title="F1", total=functions.f1_of_counts),
        Metric("pixel_accuracy", pixel_accuracy, unit=" %", title="pixels right"),
        Metric("iou", functions.pair_counts, unit=" %", title="mean IoU", total=functions.iou_of_counts),
        Metric("mse", mse, higher_is_better=False, title="MSE"),
        Metric("rmse", mse, higher_is_better=False, title="RMSE", total=functions.root_of_mean),
        Metric("mae", mae, higher_is_better=False, title="MAE"),
        Metric("r2", functions.both, title="R2", total=functions.r2_of_both),
        Metric("psnr", psnr, unit=" dB", title="PSNR"),
        Metric("ssim", ssim, title="SSIM"),
        Metric("bit_accuracy", bit_accuracy, unit=" %", title="bits right"),
        Metric(
            "perplexity", functions.negative_log_likelihood, higher_is_better=False, total=functions.perplexity_of_sums,
        ),
    )
}  # fmt: skip


def metric(spec: str | MetricFunction | Metric) -> Metric:
    """Return a metric by name, by ``package.module:function``, or of a function.

    A function's attribute ``higher_is_better``, where it has one, says which way is better; without it more is.

    Raises:
        ConfigError: there is no such metric.
    """
    if isinstance(spec, Metric):
        return spec
    if isinstance(spec, str) and spec in METRICS:
        return METRICS[spec]
    if isinstance(spec, str):
        from qat.system.import_object import import_object

        if ":" not in spec:
            valid = f"{', '.join(METRICS)}, or package.module:function"
            raise ConfigError(f"unknown metric '{spec}'{nearest(spec, tuple(METRICS))}; valid: {valid}")
        name, function = spec.partition(":")[2], import_object(spec, "metric")
    else:
        name, function = getattr(spec, "__name__", "metric"), spec
    return Metric(name, function, bool(getattr(function, "higher_is_better", True)))


def default_metrics(outputs: Any, labels: Any) -> tuple[Metric, ...]:
    """Return the metrics that follow from the labels' type and shape; none where no metric fits.

    Class numbers (or one-hot rows) for outputs ``[n, classes]``: top-1. Maps of class numbers: the share of right pixels, and
    mean IoU. Numbers of the outputs' shape: the mean squared and the mean absolute error.
    """
    if not isinstance(outputs, np.ndarray) or not isinstance(labels, np.ndarray) or outputs.ndim == 0 or labels.ndim == 0:
        return ()
    if _are_classes(outputs, labels):
        maps = labels.ndim > 2 and labels.shape != outputs.shape
        return (METRICS["pixel_accuracy"], METRICS["iou"]) if maps else (METRICS["top1"],)
    if labels.dtype.kind in "iufb" and [n for n in labels.shape if n != 1] == [n for n in outputs.shape if n != 1]:
        return METRICS["mse"], METRICS["mae"]
    return ()


def _are_classes(outputs: np.ndarray, labels: np.ndarray) -> bool:
    if labels.shape == outputs.shape:
        rows = outputs.ndim == 2 and outputs.shape[1] > 1
        return rows and bool(np.isin(labels, (0, 1)).all()) and bool((labels.sum(1) == 1).all())
    if labels.dtype.kind not in "iu" or labels.size >= outputs.size:
        return False
    try:
        functions.class_numbers(outputs, labels)
    except ValueError:
        return False
    return True


def shown(values: Mapping[str, float]) -> str:
    """Return metrics as text, those known by name with their units."""
    unit = lambda name: METRICS[name].unit if name in METRICS else ""  # noqa: E731
    return ", ".join(f"{name} {f'{value:.2f}' if unit(name) else f'{value:.4g}'}{unit(name)}" for name, value in values.items())


def samples_of(arrays: Any) -> int:
    """Return the number of samples of an array, or of the first one of a tuple, list or dictionary of arrays."""
    while isinstance(arrays, (tuple, list, Mapping)) and len(arrays):
        first = next(iter(arrays.values() if isinstance(arrays, Mapping) else arrays))
        if not hasattr(first, "__len__"):
            break
        arrays = first
    return len(arrays)


def _shapes(arrays: Any) -> str:
    if isinstance(arrays, Mapping):
        return ", ".join(f"{name}: {_shapes(array)}" for name, array in arrays.items())
    if isinstance(arrays, (tuple, list)):
        return ", ".join(_shapes(array) for array in arrays)
    return str(getattr(arrays, "shape", type(arrays).__name__))


def measure(metrics: Iterable[Metric] | None, batches: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Return each metric over all ``(outputs, labels)`` batches; None takes those that :func:`default_metrics` finds.

    The memory of a metric that is a mean does not depend on the number of batches. A value for the batch counts by its samples.

    Raises:
        DataError: there are no batches, or outputs and labels do not fit a metric.
    """
    chosen: Sequence[Metric] | None = None if metrics is None else tuple(metrics)
    sums: dict[str, float] = {}
    rows: dict[str, list[np.ndarray]] = {}
    seen = 0
    for index, (outputs, labels) in enumerate(batches):
        chosen = default_metrics(outputs, labels) if chosen is None else chosen
        count = samples_of(labels)
        for m in chosen:
            values = m.of_batch(outputs, labels, f"evaluation batch {index}")
            if m.is_mean:
                sums[m.name] = sums.get(m.name, 0.0) + float(values.mean()) * count
            else:
                rows.setdefault(m.name, []).append(values)
        seen += count
    if chosen is None or seen == 0:
        raise DataError("the evaluation data yields no batches: a generator that was used up yields none, pass a list")
    return {m.name: sums[m.name] / seen if m.name in sums else m.total(np.concatenate(rows[m.name])) for m in chosen}

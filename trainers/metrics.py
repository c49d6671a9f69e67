"""Metrics of an evaluation, in NumPy: ``(outputs, labels) -> values``, one value a sample; the metric is their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from qat.errors import ConfigError, DataError

#: A metric ``(outputs, labels) -> values`` on arrays: one value a sample, or one for the batch.
MetricFunction: TypeAlias = Callable[[np.ndarray, np.ndarray], ArrayLike]


def _classes(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return class numbers; labels of the outputs' shape (a teacher's outputs, one-hot rows) name their largest entry."""
    return labels.argmax(-1) if labels.shape == outputs.shape else labels


def top1(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the largest output is the label's, in percent."""
    return 100.0 * (outputs.argmax(-1) == _classes(labels, outputs))


def top5(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the label is among the five largest outputs, in percent."""
    best = np.argsort(-outputs, axis=-1, kind="stable")[..., :5]
    return 100.0 * (best == _classes(labels, outputs)[..., None]).any(-1)


def mse(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's mean squared error."""
    error = outputs.astype(np.float64) - labels.reshape(outputs.shape)
    return np.asarray((error**2).reshape(len(outputs), -1).mean(-1))


def psnr(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's peak signal-to-noise ratio in dB, for a peak of 1; equal images give 100."""
    return np.asarray(-10.0 * np.log10(np.maximum(mse(outputs, labels), 1e-10)))


def bit_accuracy(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's share of outputs on their label's side of zero (labels 0 or 1, outputs logits), in percent."""
    right = (outputs > 0) == (labels.reshape(outputs.shape) > 0.5)
    return np.asarray(100.0 * right.reshape(len(outputs), -1).mean(-1))


@dataclass(frozen=True)
class Metric:
    """A metric: its name, its function, whether more of it is better, and its unit."""

    name: str
    values: MetricFunction
    higher_is_better: bool = True
    unit: str = ""


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("top1", top1, unit=" %"),
        Metric("top5", top5, unit=" %"),
        Metric("mse", mse, higher_is_better=False),
        Metric("psnr", psnr, unit=" dB"),
        Metric("bit_accuracy", bit_accuracy, unit=" %"),
    )
}


def metric(spec: str | MetricFunction) -> Metric:
    """Return a metric by name, by ``package.module:function``, or of a function.

    A function's attribute ``higher_is_better``, where it has one, says which way is better; without it more is.

    Raises:
        ConfigError: there is no such metric.
    """
    if isinstance(spec, str) and spec in METRICS:
        return METRICS[spec]
    if isinstance(spec, str):
        from qat.system.import_object import import_object

        if ":" not in spec:
            raise ConfigError(f"unknown metric '{spec}'; valid: {', '.join(METRICS)}, or package.module:function")
        name, function = spec.partition(":")[2], import_object(spec, "metric")
    else:
        name, function = getattr(spec, "__name__", "metric"), spec
    return Metric(name, function, bool(getattr(function, "higher_is_better", True)))


def shown(values: Mapping[str, float]) -> str:
    """Return metrics as text, those known by name with their units."""
    unit = lambda name: METRICS[name].unit if name in METRICS else ""  # noqa: E731
    return ", ".join(f"{name} {f'{value:.2f}' if unit(name) else f'{value:.4g}'}{unit(name)}" for name, value in values.items())


def measure(metrics: Iterable[Metric], batches: Iterable[tuple[Any, np.ndarray]]) -> dict[str, float]:
    """Return each metric's mean over ``(outputs, labels)`` batches; memory does not depend on their number.

    Raises:
        DataError: there are no batches, or outputs and labels do not fit a metric.
    """
    metrics = tuple(metrics)
    sums, seen = dict.fromkeys((m.name for m in metrics), 0.0), 0
    for index, (outputs, labels) in enumerate(batches):
        count = len(labels)
        for m in metrics:
            try:
                values = np.asarray(m.values(outputs, labels), np.float64)
            except (ValueError, IndexError, AttributeError, TypeError, np.exceptions.AxisError) as error:
                found = f"outputs {getattr(outputs, 'shape', type(outputs).__name__)}, labels {labels.shape}"
                raise DataError(f"metric '{m.name}' does not take evaluation batch {index} ({found}): {error}") from error
            # A function may return one value for the batch, or one a sample.
            sums[m.name] += float(values.mean()) * count
        seen += count
    if seen == 0:
        raise DataError("the evaluation data yields no batches: a generator that was used up yields none, pass a list")
    return {name: total / seen for name, total in sums.items()}

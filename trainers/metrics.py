"""Metrics by name, or of functions of the user's own, and the measurement of outputs by them.

A metric is written as a name, as ``package.module:function``, or as a function ``(outputs, labels) -> values`` on arrays. With
options it is a mapping: ``{name: string_accuracy, blank: 0, alphabet: abc}``, ``{name: top1, output: classes}``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from qat.errors import ConfigError, DataError, nearest

from . import detection_metrics, embedding_metrics, text_metrics
from . import metric_functions as functions
from .average_precision import average_precision, mean_average_precision
from .metric import Metric, MetricFunction, samples_of

#: A metric as a user writes it: a name, ``package.module:function``, a function, or a mapping of one of them with its options.
MetricSpec: TypeAlias = str | MetricFunction | Metric | Mapping[str, Any]

#: The metric of a run without labels: the loss against the teacher on the evaluation data.
DISTANCE = "distance"

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("top1", functions.top1, unit=" %", title="top-1"),
        Metric("top5", functions.top(5), unit=" %", title="top-5"),
        Metric("f1", functions.pair_counts, unit=" %", title="F1", total=functions.f1_of_counts, floor=0.0),
        Metric("pixel_accuracy", functions.pixel_accuracy, unit=" %", title="pixels right"),
        Metric("iou", functions.pair_counts, unit=" %", title="mean IoU", total=functions.iou_of_counts, floor=0.0),
        Metric("mask_iou", functions.mask_iou, unit=" %", title="mask IoU", floor=0.0),
        Metric("mse", functions.mse, higher_is_better=False, title="MSE"),
        Metric("rmse", functions.mse, higher_is_better=False, title="RMSE", total=functions.root_of_mean),
        Metric("mae", functions.mae, higher_is_better=False, title="MAE"),
        Metric("r2", functions.both, title="R2", total=functions.r2_of_both, floor=0.0),
        Metric("landmark_error", functions.landmark_error, higher_is_better=False, unit=" px", title="landmarks off"),
        Metric("psnr", functions.psnr, unit=" dB", title="PSNR"),
        Metric("ssim", functions.ssim, title="SSIM", floor=0.0),
        Metric("bit_accuracy", functions.bit_accuracy, unit=" %", title="bits right"),
        Metric(
            "perplexity", functions.negative_log_likelihood, higher_is_better=False, total=functions.perplexity_of_sums,
        ),
        Metric(
            "map", detection_metrics.matches, unit=" %", title="mAP", total=mean_average_precision,
            drawn=average_precision, floor=0.0,
        ),
        Metric(
            "map50", detection_metrics.matches, unit=" %", title="mAP50", total=partial(mean_average_precision, threshold=0.5),
            drawn=partial(average_precision, threshold=0.5), floor=0.0,
        ),
        Metric("cosine", embedding_metrics.cosine, floor=0.0),
        Metric(
            "retrieval_map", embedding_metrics.embeddings, unit=" %", title="retrieval mAP",
            whole=embedding_metrics.average_precisions, floor=0.0,
        ),
        Metric("character_accuracy", text_metrics.character_accuracy, unit=" %", title="characters right", floor=0.0),
        Metric("string_accuracy", text_metrics.string_accuracy, unit=" %", title="texts right", floor=0.0),
    )
}  # fmt: skip

#: Names that end in a number of one's choice, and how they are shown in messages.
_NUMBERED: dict[str, tuple[str, Callable[[int], Metric]]] = {
    r"top(\d+)": ("top<k>", lambda k: Metric(f"top{k}", functions.top(k), unit=" %", title=f"top-{k}")),
    r"recall@(\d+)": (
        "recall@<k>",
        lambda k: Metric(f"recall@{k}", embedding_metrics.embeddings, unit=" %", whole=embedding_metrics.recall_at(k), floor=0.0),
    ),
}  # fmt: skip

#: Behind a metric's name: it measures the distance to the float model's outputs.
_TO_FLOAT = " to float"


def metric(spec: MetricSpec) -> Metric:
    """Return a metric by name, by ``package.module:function``, or of a function.

    A name with ``" to float"`` behind it holds outputs against the float model's. A mapping has the ``name`` or the function, and
    at will ``output`` (the name or number of the output, and of its labels, that is measured), ``as`` (another name for the
    results), and the metric's own options. Attributes of a function of one's own, where it has them, are those of a
    :class:`Metric`: ``higher_is_better``, and ``total`` where the metric is no mean of its samples' values.

    Raises:
        ConfigError: there is no such metric, or it has no such option.

    Examples:
        >>> metric({"name": "top1", "output": "classes"}).name
        'top1 of classes'
    """
    if isinstance(spec, Metric):
        return spec
    if isinstance(spec, Mapping):
        return _with_options(spec)
    if not isinstance(spec, str):
        return _of_function(getattr(spec, "__name__", "metric"), spec)
    name = spec.removesuffix(_TO_FLOAT)
    return _by_name(name) if spec == name else to_float(_by_name(name))


def to_float(m: Metric) -> Metric:
    """Return a metric as the distance to the float model's outputs."""
    return m if m.to_float else replace(m, name=m.name + _TO_FLOAT, title=(m.title or m.name) + _TO_FLOAT, to_float=True)


def _by_name(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    for pattern, (_, make) in _NUMBERED.items():
        found = re.fullmatch(pattern, name)
        if found and int(found[1]) > 0:
            return make(int(found[1]))
    if ":" not in name:
        shown = [*METRICS, *(text for text, _ in _NUMBERED.values())]
        raise ConfigError(f"unknown metric '{name}'{nearest(name, shown)}; valid: {', '.join(shown)}, or package.module:function")
    from qat.system.import_object import import_object

    return _of_function(name.partition(":")[2], import_object(name, "metric"))


def _of_function(name: str, function: MetricFunction) -> Metric:
    own = {key: getattr(function, key) for key in ("higher_is_better", "total") if hasattr(function, key)}
    return Metric(name, function, **own)


def _with_options(spec: Mapping[str, Any]) -> Metric:
    options = dict(spec)
    if "name" not in options:
        raise ConfigError(f"a metric with options has a name, {{name: top1, output: 0}} for example, not {dict(spec)}")
    made = metric(options.pop("name"))
    output, name = options.pop("output", None), options.pop("as", None)
    known = inspect.signature(made.values).parameters.values()
    valid = [p.name for p in known if p.kind is p.KEYWORD_ONLY]
    for key in options:
        if key not in valid:
            shown = ["output", "as", *valid]
            raise ConfigError(f"metric '{made.name}' has no option '{key}'{nearest(str(key), shown)}; valid: {', '.join(shown)}")
    if isinstance(decode := options.get("decode"), str) and ":" not in decode:
        detection_metrics.decoder(decode)  # a name is looked up now, a module when it is needed
    own = f"{made.name} of {output}" if output is not None else made.name
    title = f"{made.title or made.name} of {output}" if output is not None else made.title
    values = partial(made.values, **options) if options else made.values
    return replace(made, name=name or own, title=name or title, values=values, output=output)


def chosen(specs: Iterable[MetricSpec]) -> tuple[Metric, ...]:
    """Return the metrics of a list.

    Raises:
        ConfigError: there is no such metric, or two have one name.
    """
    made = tuple(metric(spec) for spec in specs)
    names = [m.name for m in made]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two metrics are called '{name}': give one of them another name, {{name: ..., as: ...}}")
    return made


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
    parts = []
    for name, value in values.items():
        try:
            known = _by_name(name.removesuffix(_TO_FLOAT).partition(" of ")[0])
        except ConfigError:  # a function of the user's own
            known = Metric(name, functions.mse)
        parts.append(f"{name} {known.shown(value)}")
    return ", ".join(parts)


def measure(metrics: Iterable[Metric] | None, batches: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Return each metric over all ``(outputs, labels)`` batches; None takes those that :func:`default_metrics` finds.

    The memory of a metric that is a mean does not depend on the number of batches. A value for the batch counts by its samples.

    Raises:
        DataError: there are no batches, or outputs and labels do not fit a metric.
    """
    named: Sequence[Metric] | None = None if metrics is None else tuple(metrics)
    sums: dict[str, float] = {}
    rows: dict[str, list[np.ndarray]] = {}
    seen = 0
    for index, (outputs, labels) in enumerate(batches):
        named = default_metrics(outputs, labels) if named is None else named
        count = samples_of(labels)
        for m in named:
            values = m.of_batch(outputs, labels, f"evaluation batch {index}")
            if m.streams:
                sums[m.name] = sums.get(m.name, 0.0) + float(values.mean()) * count
            else:
                rows.setdefault(m.name, []).append(values)
        seen += count
    if named is None or seen == 0:
        raise DataError("the evaluation data yields no batches: a generator that was used up yields none, pass a list")
    return {m.name: sums[m.name] / seen if m.name in sums else m.total(m.of_all(rows[m.name])) for m in named}

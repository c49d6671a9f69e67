"""The judgement of outputs: their loss against the float outputs, and the metrics against the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.arithmetic.spread import spread
from qat.errors import CalibrationError, ConfigError, DataError
from qat.frameworks import adapter_for, framework_of, has_plan, in_order, is_prepared
from qat.graph.graph import Graph
from qat.report import statistics
from qat.report.labels import inputs_of, labels_of
from qat.report.running import turned
from qat.system.sample_axes import count_of, cut, rows_alike
from qat.system.samples import batches_of, check_finite
from qat.system.silence import without_notices
from qat.trainers.metric import Metric, samples_of
from qat.trainers.metric_functions import top1
from qat.trainers.metrics import MetricSpec, chosen, default_metrics
from qat.trainers.named_outputs import named
from qat.trainers.output_losses import OutputLosses, choose
from qat.typing import Batches, Model, PreparedModel

#: The metrics of data without labels: the float model's answers take their place.
SAME_ANSWERS = Metric("same_answers", top1, unit=" %", title="same answers")
ERROR = "error"

#: The bytes of the tensors of one batch, where all are kept, and the most samples in it; a size that is free is taken for this.
_MEMORY, _MOST_SAMPLES, _FREE = 2**28, 64, 64


@dataclass(frozen=True)
class Score:
    """How good outputs are.

    Attributes:
        loss: against the float outputs, by kind of output (KL, squared error, ...), see :mod:`qat.trainers.output_losses`: 0 is
            float, 1 an answer that ignores the input. Smoother than a metric: it orders layers on few samples.
        metrics: by name; the first one decides.
        drop: how much worse the first metric is than float's: in percentage points where its unit is a percent, else in percent
            of float's value, or in its own unit where that is 0. Below zero where it is better.
        drop_low, drop_high: the 95 % interval of ``drop``, paired by sample; None where there are too few samples to tell.
    """

    loss: float
    metrics: dict[str, float]
    drop: float
    drop_low: float | None
    drop_high: float | None


@dataclass(frozen=True)
class Rows:
    """The loss, and the values of each metric, of each sample of a batch."""

    loss: np.ndarray
    values: tuple[np.ndarray, ...]


class Judge:
    """Holds outputs of a calibrated model, with whatever roundings, against its float outputs and the labels.

    Attributes:
        model, adapter: the model, and the adapter of its framework.
        inputs: of each batch, as the adapter takes them.
        floats: the float outputs of each batch.
        losses: of each output.
        metrics: that are measured, the one that decides first.
        labelled: whether the data has labels; else the float model's answers are the labels.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        ConfigError: the model is of ``tf_keras``, or there is no such metric.
        DataError: no data, or data that do not fit.
    """

    def __init__(self, model: PreparedModel, data: Batches, metrics: Iterable[MetricSpec] | None) -> None:
        check_calibrated(model)
        framework = framework_of(model)
        assert framework != "tf_keras"
        self.model, self.adapter = model, adapter_for(framework)
        graph = model.plan.graph
        answers: list[Any] = []
        batches = inputs_of(batches_of(data, "the data of the sensitivity"), len(graph.inputs), answers)
        whole = [self.adapter.inputs_of((in_order(model, inputs),)) for inputs in batches]
        if not whole:
            raise DataError("the sensitivity got no data: pass at least one batch (a generator that was used up yields none)")
        size = affordable_batch(model.plan.graph)
        axes = graph.sample_axes
        self.inputs = [
            cut(inputs, axes, start, start + size) for inputs in whole for start in range(0, count_of(inputs, axes), size)
        ]
        for index, inputs in enumerate(self.inputs):
            for x in inputs:
                check_finite(np.asarray(x), f"batch {index}")
        self.floats = [next(self.adapter.simulate(model, inputs, [{}]))[1] for inputs in self.inputs]
        with without_notices():
            self.names = [(name,) for name in self.adapter.lower(model).output_names or graph.outputs]
        together = {
            path[0]: np.concatenate(parts) for path, parts in zip(self.names, zip(*self.floats, strict=True), strict=True)
        }
        self.losses: OutputLosses = choose(together, None, graph.layout == "NCHW")
        labels = labels_of(answers)
        labels = None if labels is None else [part for y in labels for part in _parts(y, size)]
        self.labelled = labels is not None
        self.metrics = self._metrics(labels, metrics)
        floats = [self._named(outputs) for outputs in self.floats]
        self.labels = floats if labels is None else labels
        if self.metrics == (SAME_ANSWERS,):
            self.labels = [outputs.argmax(-1) for outputs in floats]
        self._reference = [self.rows(i, outputs) for i, outputs in enumerate(self.floats)]
        self.reference = self.score(self._reference)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(len(outputs[0]) for outputs in self.floats)

    def as_judged(self, batch: int, outputs: Sequence[np.ndarray], names: Sequence[str]) -> tuple[np.ndarray, ...]:
        """Return the outputs of an artifact for a batch in the order and the layout of the model's."""
        wanted = [name for (name,) in self.names]
        order = [names.index(name) for name in wanted] if sorted(names) == sorted(wanted) else range(len(outputs))
        return tuple(turned(outputs[i], y.shape) for i, y in zip(order, self.floats[batch], strict=True))

    def rows(self, batch: int, outputs: Sequence[np.ndarray]) -> Rows:
        """Return what the outputs of a batch are worth, sample by sample."""
        values = []
        for m in self.metrics:
            labels = self._named(self.floats[batch]) if m.to_float else self.labels[batch]
            found = m.of_batch(self._named(outputs), labels, f"batch {batch}")
            count = samples_of(outputs)
            values.append(np.repeat(found, count) if m.streams and len(found) == 1 < count else found)
        return Rows(self.losses.values(outputs, self.floats[batch]), tuple(values))

    def score(self, rows: Sequence[Rows]) -> Score:
        """Return the score of all batches."""
        values = [m.of_all([r.values[i] for r in rows]) for i, m in enumerate(self.metrics)]
        before = [m.of_all([r.values[i] for r in self._reference]) for i, m in enumerate(self.metrics)]
        first = self.metrics[0]
        now, was = first.total(values[0]), first.total(before[0])
        found = statistics.difference(first, values[0], before[0])
        # More is worse, whatever the metric.
        unit = (1.0 if first.unit == " %" or was == 0 else 100 / abs(was)) * (-1 if first.higher_is_better else 1)
        ends = (None, None) if found is None else tuple(sorted((float(unit * found.low) + 0.0, float(unit * found.high) + 0.0)))
        metrics = {m.name: float(m.total(v)) for m, v in zip(self.metrics, values, strict=True)}
        return Score(
            float(np.mean(np.concatenate([r.loss for r in rows]))), metrics, unit * (now - was) + 0.0, *ends
        )  # + 0.0: no -0.0

    def _named(self, outputs: Sequence[np.ndarray]) -> Any:
        return named(self.names, outputs)

    def _metrics(self, labels: Sequence[Any] | None, wanted: Iterable[MetricSpec] | None) -> tuple[Metric, ...]:
        if wanted is not None:
            made = chosen(wanted)
            needing = [m.name for m in made if not m.to_float]
            if not made or (labels is None and needing):
                raise ConfigError(
                    f"metric '{needing[0]}' needs labels: yield (inputs, labels) pairs, or leave out metrics" if needing
                    else "metrics: name at least one, or leave them out"
                )  # fmt: skip
            return made
        found = () if labels is None else default_metrics(self._named(self.floats[0]), labels[0])
        if found:
            return found
        if labels is not None:
            raise ConfigError("no metric follows from outputs and labels of these shapes: name one by metrics")
        single = self.losses.each[0] if len(self.losses.each) == 1 else None
        flat = single is not None and single.name == "kl" and self.floats[0][0].ndim == 2
        return (SAME_ANSWERS,) if flat else (self._error(),)

    def _error(self) -> Metric:
        """Return the metric of outputs that are no classes: the error as a share of their spread, in percent."""
        variances = [spread(np.concatenate(parts)) ** 2 for parts in zip(*self.floats, strict=True)]

        def squares(outputs: Any, wanted: Any) -> np.ndarray:
            pairs = zip(_each(outputs), _each(wanted), variances, strict=True)
            each = [np.square(a.astype(np.float64) - b).reshape(len(a), -1).mean(1) / v for a, b, v in pairs]
            return np.asarray(np.mean(rows_alike(each), axis=0))

        return Metric(
            ERROR, squares, higher_is_better=False, unit=" %", title="error", to_float=True, total=_root_in_percent
        )  # fmt: skip


def check_plan(model: Model) -> None:
    """Raise CalibrationError unless a model is prepared, ConfigError for one of ``tf_keras``."""
    if not is_prepared(model):
        raise CalibrationError("sensitivity needs a prepared model: call qat.prepare and qat.calibrate first")
    if not has_plan(model):
        raise ConfigError("sensitivity is not for tf_keras models: load the model with Keras 3")


def check_calibrated(model: PreparedModel) -> None:
    """Raise CalibrationError unless a model is prepared and calibrated, ConfigError for one of ``tf_keras``."""
    check_plan(model)
    if not all(grid.calibrated for grid in model.grids.values()):
        raise CalibrationError(
            "the model is not calibrated: call qat.calibrate(model, samples) before its sensitivity is measured"
        )


def _each(outputs: Any) -> tuple[np.ndarray, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _root_in_percent(values: np.ndarray) -> float:
    return 100 * float(np.sqrt(values.mean()))


def affordable_batch(graph: Graph) -> int:
    """Return how many samples a pass that keeps every tensor can have at once."""
    sizes = [[n or _FREE for n in tensor.shape[1:]] for tensor in graph.tensors.values()]
    return int(np.clip(_MEMORY // (4 * sum(map(math.prod, sizes))), 1, _MOST_SAMPLES))


def _parts(arrays: Any, size: int) -> list[Any]:
    """Return the parts of a batch, of at most ``size`` samples each: of an array, or of a tuple or dictionary of them."""
    count = samples_of(arrays)
    if count <= size:
        return [arrays]

    def part(value: Any, start: int) -> Any:
        if isinstance(value, Mapping):
            return {name: part(v, start) for name, v in value.items()}
        return tuple(part(v, start) for v in value) if isinstance(value, tuple) else value[start : start + size]

    return [part(arrays, start) for start in range(0, count, size)]

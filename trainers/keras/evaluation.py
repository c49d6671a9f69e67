"""The evaluation of a Keras model: its outputs on data, measured against the labels or a teacher's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from qat.display.progress import length, tracked
from qat.errors import DataError
from qat.frameworks import in_order, input_count
from qat.system.nests import arrays_of, leaves, mapped
from qat.trainers.data_checks import of_batch, split_batch
from qat.trainers.metric import Metric
from qat.trainers.metrics import measure
from qat.trainers.named_outputs import named
from qat.trainers.options import TrainingOptions
from qat.trainers.preparation import evaluated
from qat.trainers.sample_weights import unweighted
from qat.typing import Batches

from .distributed import Replicas


def evaluate(model: Any, data: Batches, options: TrainingOptions) -> dict[str, float]:
    """Return the options' metrics of a model on data."""
    return evaluated(Evaluator(model, options), data, options)


class Evaluator:
    """A model, and the options by which its batches are read and measured."""

    channels_second = False

    def __init__(self, model: Any, options: TrainingOptions) -> None:
        self.model, self.options = model, options
        self.replicas = Replicas(model)
        run_in_each = self.replicas.run
        self._predict = tf.function(lambda inputs: run_in_each(self._outputs, inputs), reduce_retracing=True)

    def pairs(self, data: Batches) -> Iterator[tuple[Any, Any]]:
        """Yield batches as (inputs, labels)."""
        return _pairs(data, self.options.labelled, input_count(self.model))

    def evaluate(self, data: Batches, metrics: Sequence[Metric] | None = None) -> dict[str, float]:
        """Return the metrics, of all processes together; by default the options'."""
        return self.replicas.mean_of(measure(metrics or self.options.chosen_metrics, self._evaluated(data)))

    def _evaluated(self, data: Batches) -> Iterator[tuple[Any, Any]]:
        for index, (inputs, labels) in enumerate(tracked(self.pairs(data), "evaluation", length(data))):
            with of_batch(f"evaluation batch {index}", self.model, inputs):
                outputs = _outputs(self.model, self.answers(inputs))
            yield outputs, self._expected(inputs, labels, f"evaluation batch {index}")

    def answers(self, inputs: Any) -> Any:
        """Return the outputs for a batch as arrays, nested as the model returns them."""
        samples = len(tf.nest.flatten(inputs)[0])
        return self.replicas.gathered(self._predict(self.replicas.split(listed(inputs), samples)), samples)

    def _outputs(self, inputs: Any) -> Any:
        return self.model(inputs, training=False)

    def _expected(self, inputs: Any, labels: Any, where: str) -> Any:
        if self.options.labelled:
            return unweighted(labels)[0]
        assert self.options.teacher is not None
        with of_batch(where, self.options.teacher, inputs, "the teacher"):
            return _outputs(self.options.teacher, self.options.teacher(listed(inputs), training=False))

    def labelled(self, data: Batches) -> Iterator[tuple[tuple[np.ndarray, ...], Any]]:
        """Yield batches as arrays: the inputs, and the labels or the teacher's outputs."""
        for index, (inputs, labels) in enumerate(self.pairs(data)):
            arrays = [x for _, x in leaves(in_order(self.model, inputs))]
            yield tuple(np.asarray(x) for x in arrays), self._expected(inputs, labels, f"evaluation batch {index}")


def _outputs(model: Any, outputs: Any) -> Any:
    """Return a model's outputs as a metric takes them; those that are no dictionary have the names that Keras gives them."""
    pairs = keras.tree.flatten_with_path(outputs)
    paths = [path for path, _ in pairs]
    names = getattr(model, "output_names", None) or ()
    if isinstance(outputs, (tuple, list)) and len(names) == len(paths):
        paths = [(name,) for name in names]
    return named(paths, [np.asarray(tensor) for _, tensor in pairs])


def listed(inputs: Any) -> Any:
    """Return a batch's inputs as Keras takes them: a tuple as a list."""
    return list(inputs) if isinstance(inputs, tuple) else inputs


def _pairs(data: Batches, labelled: bool, count: int) -> Iterator[tuple[Any, Any]]:
    for index, batch in enumerate(data):
        inputs, labels = split_batch(batch, index, labelled, count)
        arrays = [x for _, x in leaves(inputs)]
        for x in arrays:
            if not np.isfinite(np.asarray(x)).all():
                raise DataError(f"batch {index} of the data holds NaN or infinite values: clean it before training")
        # Without labels the loop needs the number of samples alone.
        yield mapped(lambda x: x, inputs), arrays_of(labels) if labelled else np.empty(len(np.asarray(arrays[0])), np.float32)

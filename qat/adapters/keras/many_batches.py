"""A prepared model's outputs for many batches of one shape: as a graph, since an operator that runs by itself costs a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

#: So many batches of a shape run eagerly: with the next ones tracing pays.
EAGER_BATCHES = 10


class ManyBatches:
    """The calls of one calibrated model in inference mode.

    Attributes:
        traces: whether there may be a graph: float sums may differ in it.
    """

    def __init__(self, model: keras.Model, traces: bool) -> None:
        self._model, self.traces = model, traces
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graph = tf.function(lambda *inputs: called(self._model, inputs))

    def outputs(self, inputs: Sequence[np.ndarray]) -> Any:
        """Return the outputs for a batch, nested as the model returns them."""
        shapes = tuple((x.shape, x.dtype.str) for x in inputs)
        self._seen[shapes] += 1
        if self.traces and self._seen[shapes] > EAGER_BATCHES:
            return self._graph(*map(tf.convert_to_tensor, inputs))
        return called(self._model, inputs)


def called(model: keras.Model, inputs: Sequence[Any]) -> Any:
    """Return a model's outputs for a batch in inference mode, nested as the model returns them."""
    return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

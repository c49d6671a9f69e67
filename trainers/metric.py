"""A metric: its values of a batch, and what is made of the values of all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from qat.errors import DataError
from qat.system.nests import leaves

#: A metric ``(outputs, labels) -> values`` on arrays: one value a sample, or one for the batch. Of a model with several outputs
#: the first argument is a tuple, whose arrays have the outputs' names too; of several labels the second is what the data yields.
MetricFunction: TypeAlias = Callable[[Any, Any], ArrayLike]


def mean(values: np.ndarray) -> float:
    """Return the mean of values: what most metrics make of them."""
    return float(values.mean())


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: by which results hold it.
        values: returns a row a sample, or one value for the batch.
        higher_is_better: whether more of it is better.
        unit: behind a value.
        title: in a table.
        total: makes the metric of the rows of all samples: their mean but for F1, mAP and others of whole data sets.
        whole: makes a value for each sample of the rows of all; None where a sample's value does not depend on the others.
        output: the output, by name or number, that it measures, and the label of that name or number; None for all.
        to_float: whether it measures the distance to the float model's outputs, not to labels.
        floor: the value of a model that knows nothing; None where there is none.
        drawn: makes of the rows of all samples the function that gives the metric of how often each sample is drawn, ``[n]``
            integers: what a bootstrap asks for thousands of times. None where ``total`` of the rows drawn is quick enough.
    """

    name: str
    values: MetricFunction
    higher_is_better: bool = True
    unit: str = ""
    title: str = ""
    total: Callable[[np.ndarray], float] = mean
    whole: Callable[[np.ndarray], np.ndarray] | None = None
    output: str | int | None = None
    to_float: bool = False
    floor: float | None = None
    drawn: Callable[[np.ndarray], Callable[[np.ndarray], float]] | None = None

    @property
    def is_mean(self) -> bool:
        """Whether the metric is the mean of its samples' values."""
        return self.total is mean

    @property
    def streams(self) -> bool:
        """Whether a sum over the batches is enough to make the metric."""
        return self.is_mean and self.whole is None

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
        found = f"outputs {_shapes(outputs)}, labels {_shapes(labels)}"
        try:
            values = np.asarray(self.values(*self._chosen(outputs, labels)))
            values = values if values.dtype == object else values.astype(np.float64)
        except (ValueError, IndexError, KeyError, AttributeError, TypeError, np.exceptions.AxisError) as error:
            raise DataError(f"metric '{self.name}' does not take {where} ({found}): {_said(error)}") from error
        if not self.streams:
            return values
        return values.reshape(1) if values.ndim == 0 else values.reshape(len(values), -1).mean(1)

    def of_all(self, batches: list[np.ndarray]) -> np.ndarray:
        """Return the rows of all samples, from those of the batches.

        Raises:
            DataError: the metric cannot be made of these samples.
        """
        rows = np.concatenate(batches)
        try:
            return rows if self.whole is None else self.whole(rows)
        except ValueError as error:
            raise DataError(f"metric '{self.name}': {error}") from error

    def _chosen(self, outputs: Any, labels: Any) -> tuple[Any, Any]:
        """Return the output that is measured, and its labels. Raises KeyError, IndexError."""
        if self.output is None:
            return outputs, labels
        several = isinstance(outputs, tuple)
        if not several and self.output not in (0, "0"):
            raise KeyError(f"output {self.output}: the model has one output")
        chosen = outputs[self.output] if several else outputs
        if isinstance(labels, Mapping):
            return chosen, labels[self.output]
        if not isinstance(labels, (tuple, list)):
            return chosen, labels
        names: tuple[str, ...] = getattr(labels, "names", ()) or getattr(outputs, "names", ())
        return chosen, labels[names.index(self.output) if isinstance(self.output, str) else self.output]


def _said(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _shapes(arrays: Any) -> str:
    if isinstance(arrays, Mapping):
        return ", ".join(f"{name}: {_shapes(array)}" for name, array in arrays.items())
    if isinstance(arrays, (tuple, list)):
        return ", ".join(_shapes(array) for array in arrays)
    return str(getattr(arrays, "shape", type(arrays).__name__))


def samples_of(arrays: Any) -> int:
    """Return the number of samples of an array, or of the first array of a nest; a list of mappings or texts has one for each.

    Raises:
        DataError: it is a single number, or a nest of such.
    """
    if isinstance(arrays, list) and arrays and isinstance(arrays[0], Mapping):
        return len(arrays)
    first = next((array for path, array in leaves(arrays) if path and np.ndim(array)), arrays)
    if not np.ndim(first) and (isinstance(first, str) or not isinstance(first, Sequence)):
        found = "a dictionary of single values" if isinstance(arrays, Mapping) else f"the single value {arrays}"
        raise DataError(f"a batch's labels are {found}: yield arrays with a row for each sample")
    return len(first)

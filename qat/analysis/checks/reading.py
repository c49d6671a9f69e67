"""Samples as users give them, as NumPy arrays by the inputs' names, with class numbers where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qat.display.progress import tracked
from qat.errors import DataError
from qat.frameworks import has_plan, in_order, input_count
from qat.system.sample_axes import sample_axes, samples_first
from qat.system.samples import batches_of, first_of_pair, parts_of

#: Samples that are looked at together: one large array is never copied whole.
_AT_ONCE = 64


def batches(samples: Any, labels: Any, model: Any, what: str) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
    """Yield the inputs of each batch by name, and its labels.

    Args:
        samples: batches of inputs or pairs ``(inputs, labels)``, or one array.
        labels: of all samples in their order; None takes those of the pairs.
        model: says how many inputs there are, and their order; None: a pair is inputs and labels.
        what: the data's name in messages.

    Raises:
        DataError: there are no samples, an input is no array of numbers, or the labels do not fit the samples.
    """
    count = 1 if model is None else input_count(model)
    given = None if labels is None else _array(labels, f"{what}: labels")
    seen = 0
    for index, batch in enumerate(tracked(batches_of(samples, what), f"checking the {what}")):
        where = f"{what}, batch {index}"
        arrays = _named(first_of_pair(batch, count), model, where)
        _, axes = sample_axes([x.shape for x in arrays.values()])
        if None not in axes:
            arrays = {name: samples_first(x, axis) for (name, x), axis in zip(arrays.items(), axes, strict=True)}
        sizes = {len(x) for x in arrays.values()}
        if len(sizes) != 1:
            raise DataError(f"{where}: the inputs have different numbers of samples: {', '.join(map(str, sorted(sizes)))}")
        size = sizes.pop()
        found = _labels(batch, count) if given is None else given[seen : seen + size]
        if found is not None and len(found) != size:
            raise DataError(f"{where}: {size} samples, but {len(found)} labels")
        seen += size
        for first in range(0, size, _AT_ONCE):
            place = slice(first, first + _AT_ONCE)
            yield {name: x[place] for name, x in arrays.items()}, None if found is None else found[place]
    if not seen:
        raise DataError(f"{what}: there are no samples: pass at least one batch (a generator that was used up yields none)")
    if given is not None and len(given) != seen:
        raise DataError(f"{what}: {seen} samples, but {len(given)} labels")


def _named(inputs: Any, model: Any, where: str) -> dict[str, np.ndarray]:
    if isinstance(inputs, Mapping) and model is None:
        return {str(name): _array(x, f"{where}, input '{name}'") for name, x in inputs.items()}
    ordered = in_order(model, inputs) if model is not None else inputs
    several = isinstance(ordered, (tuple, list)) and all(hasattr(x, "shape") for x in ordered)
    values = list(ordered) if several else [ordered]
    if has_plan(model) and len(values) == len(model.plan.graph.inputs):
        names = list(model.plan.graph.inputs)
    else:
        names = ["input"] if len(values) == 1 else [f"input_{i}" for i in range(len(values))]
    return {name: _array(x, f"{where}, input '{name}'") for name, x in zip(names, values, strict=True)}


def _array(value: Any, where: str) -> np.ndarray:
    """Return an array or tensor as an array; texts become the lengths of their words and letters."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: found a {type(value).__name__}, expected an array") from error
    if array.dtype.kind == "S" or (array.dtype == object and array.size and isinstance(array.flat[0], (str, bytes))):
        array = array.astype(str)
    if array.dtype.kind == "U" and array.ndim:
        texts = array.reshape(len(array), -1)
        return np.array([[sum(map(len, row)), sum(len(text.split()) for text in row)] for row in texts])
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(f"{where}: found {array.dtype} of shape {array.shape}, expected numbers, one entry a sample")
    return array


def _labels(batch: Any, inputs: int) -> np.ndarray | None:
    """Return the labels of a pair, where they are one array."""
    labels = parts_of(batch, inputs).labels
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
    return np.asarray(labels) if hasattr(labels, "shape") and len(labels.shape) else None

"""Samples as users give them, as NumPy arrays by the inputs' names, with class numbers where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.display.progress import tracked
from qat.errors import DataError
from qat.frameworks import flattened, has_plan, in_order, input_count
from qat.system.nests import array_leaves, is_nest, leaves
from qat.system.sample_axes import Axes, axes_of_batch, count_of, cut, samples_first
from qat.system.samples import batches_of, first_of_pair, parts_of

#: Samples that are looked at together: one large array is never copied whole.
_AT_ONCE = 64


@dataclass(frozen=True)
class Batch:
    """Samples.

    Attributes:
        inputs: by name, each with its samples first; what belongs to all samples, as a mask does, is one of each of them.
        given: the inputs as the model takes them.
        labels: of the samples; None where there are none.
        model: that takes them; None where there is none.
    """

    inputs: dict[str, np.ndarray]
    given: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    model: Any = None


def batches(samples: Any, labels: Any, model: Any, what: str) -> Iterator[Batch]:
    """Yield batches.

    Args:
        samples: batches of inputs or pairs ``(inputs, labels)``, or one array.
        labels: of all samples in their order; None takes those of the pairs.
        model: says how many inputs there are, and their order; None: a pair is inputs and labels.
        what: the data's name in messages.

    Raises:
        DataError: there are no samples, an input is no array of numbers, or the labels do not fit the samples.
    """
    count = 1 if model is None else input_count(model)
    all_labels = None if labels is None else _array(labels, f"{what}: labels")
    seen = 0
    for index, batch in enumerate(tracked(batches_of(samples, what), f"checking the {what}")):
        where = f"{what}, batch {index}"
        whole = first_of_pair(batch, count)
        named, taker = _named(whole, model, where), _taker(model, whole)
        given, axes = [*named.values()], _axes([*named.values()], model)
        of_all = count_of(given, axes)
        pairs = zip(named.items(), axes, strict=True)
        arrays = {n: np.broadcast_to(x, (of_all, *x.shape)) if a is None else samples_first(x, a) for (n, x), a in pairs}
        sizes = {len(x) for x in arrays.values()}
        if len(sizes) != 1:
            raise DataError(f"{where}: the inputs have different numbers of samples: {', '.join(map(str, sorted(sizes)))}")
        size = sizes.pop()
        found = _labels(batch, count) if all_labels is None else all_labels[seen : seen + size]
        if found is not None and len(found) != size:
            raise DataError(f"{where}: {size} samples, but {len(found)} labels")
        seen += size
        for first in range(0, size, _AT_ONCE):
            place = slice(first, first + _AT_ONCE)
            inputs, taken = {name: x[place] for name, x in arrays.items()}, cut(given, axes, first, first + _AT_ONCE)
            yield Batch(inputs, taken, None if found is None else found[place], taker)
    if not seen:
        raise DataError(f"{what}: there are no samples: pass at least one batch (a generator that was used up yields none)")
    if all_labels is not None and len(all_labels) != seen:
        raise DataError(f"{what}: {seen} samples, but {len(all_labels)} labels")


def _axes(arrays: Sequence[np.ndarray], model: Any) -> Axes:
    """Return the axes of the inputs that count the samples."""
    if has_plan(model) and len(arrays) == len(model.plan.graph.inputs):
        return model.plan.graph.sample_axes
    return axes_of_batch([x.shape for x in arrays])


def _taker(model: Any, inputs: Any) -> Any:
    """Return a model that takes the arrays of a batch: one around a float model whose arguments are nested."""
    if model is None or has_plan(model) or not is_nest(inputs):
        return model
    several = type(inputs) in (tuple, list) and all(len(path) == 1 for path, _ in leaves(inputs))
    return model if several else flattened(model, inputs)[0]


def _named(inputs: Any, model: Any, where: str) -> dict[str, np.ndarray]:
    if isinstance(inputs, Mapping) and model is None:
        return {str(name): _array(x, f"{where}, input '{name}'") for name, x in inputs.items()}
    ordered = in_order(model, inputs) if model is not None else inputs
    if is_nest(ordered):
        ordered = tuple(value for _, value in array_leaves(ordered))
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

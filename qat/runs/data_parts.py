"""A part of the user's own data: batches, a stream, or samples by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.errors import DataError
from qat.system.sample_sets import LABEL_COLUMNS, Kind, SampleBatches, StreamBatches, as_pair, kind_of

from .image_files import ImageForm
from .splits import holds_classes, mixed_order

#: What a factory may return, for messages.
RETURNS = (
    "return a Dataset of PyTorch or Hugging Face, a DataLoader, a tf.data.Dataset, a qat.runs.dataset.Dataset, or several: "
    "{'train': ..., 'validation': ..., 'test': ...} or (train, test)"
)


class ArrayPair:
    """A pair of arrays ``(inputs, labels)`` as single samples."""

    def __init__(self, x: Any, y: Any) -> None:
        if len(x) != len(y):
            raise DataError(f"{len(x)} inputs but {len(y)} labels")
        self.x, self.targets = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.x[index], self.targets[index]


class _Mapped:
    """Samples or a stream of them, each changed by a function."""

    def __init__(self, data: Any, change: Callable[[Any], Any]) -> None:
        self._data, self._change = data, change

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        return self._change(self._data[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._change, self._data)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._data, "set_epoch"):
            self._data.set_epoch(epoch)


@dataclass(frozen=True)
class ImagePixels:
    """How a sample's picture becomes the model's input: brought into a form, scaled, and laid out."""

    form: ImageForm
    scale: float
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    layout: str

    def __call__(self, sample: Any) -> Any:
        """Return a sample with the pixels of its picture; a picture is what Pillow opens."""
        image, label = as_pair(sample)
        scale, mean, std = (np.asarray(v, np.float32) for v in (self.scale, self.mean, self.std))
        pixels = (self.form.of(image).astype(np.float32) * scale - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels), label


@dataclass(frozen=True)
class Part:
    """A part of the data: batches, a stream, or samples by their numbers.

    Attributes:
        data: the user's object.
        kind: what it gives.
        labels: the class numbers of its samples, where they are known without reading the samples.
        chosen: the numbers of its samples that are this part, every beginning of them a stratified sample; None for other kinds.
    """

    data: Any
    kind: Kind
    labels: np.ndarray | None = None
    chosen: np.ndarray | None = None

    @classmethod
    def of(cls, data: Any, name: str) -> Part:
        """Return the part that a user's object is.

        Raises:
            DataError: the object is no data, or can be read but once.
        """
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(x, "shape") for x in data):
            data = ArrayPair(*data)
            return cls(data, "samples", class_numbers_of(data), np.arange(len(data)))
        kind = kind_of(data)
        if kind == "samples":
            return cls(data, kind, class_numbers_of(data), np.arange(len(data)))
        if not isinstance(data, Iterable) or isinstance(data, str) or hasattr(data, "shape"):
            raise DataError(f"the factory returned a {type(data).__name__} as {name} data: {RETURNS}")
        if iter(data) is data:
            raise DataError(f"the {name} data are a {type(data).__name__}, which can be read once only: {RETURNS}")
        return cls(data, kind)

    def divided(self, share: int, seed: int) -> tuple[Part, Part]:
        """Return samples without one in ``share``, and those: each class in its share."""
        assert self.chosen is not None
        labels = None if self.labels is None else self.labels[self.chosen]
        order = self.chosen[mixed_order(labels, len(self.chosen), seed)]
        count = max(1, len(order) // share)
        return self._part(order[count:]), self._part(order[:count])

    def mixed(self, seed: int) -> Part:
        """Return samples in an order of which every beginning holds each class in its share; other kinds as they are."""
        if self.chosen is None:
            return self
        labels = None if self.labels is None else self.labels[self.chosen]
        return self._part(self.chosen[mixed_order(labels, len(self.chosen), seed)])

    def mapped(self, change: Callable[[Any], Any]) -> Part:
        """Return the part with each sample changed."""
        return Part(_Mapped(self.data, change), self.kind, self.labels, self.chosen)

    def _part(self, chosen: np.ndarray) -> Part:
        return Part(self.data, self.kind, self.labels, chosen)

    def batches(self, size: int, what: str, shuffle: int | None = None, limit: int | None = None) -> Any:
        """Return the part's batches; of samples at most ``limit``."""
        if self.chosen is not None:
            return SampleBatches(self.data, size, shuffle, self.chosen[:limit], what=what)
        return StreamBatches(self.data, size, what) if self.kind == "stream" else self.data

    def first_sample(self) -> Any:
        """Return a sample as ``(inputs, labels)``; None of batches."""
        if self.kind == "batches":
            return None
        return as_pair(self.data[int(self.chosen[0])] if self.chosen is not None else next(iter(self.data), None))


def class_numbers_of(data: Any) -> np.ndarray | None:
    """Return the class number of each sample, where a data set knows them without reading the samples."""
    names = getattr(data, "column_names", None)
    if names is not None and hasattr(data, "select_columns"):
        column = next((name for name in LABEL_COLUMNS if name in names), None)
        found = None if column is None else data.with_format(None).select_columns([column])[:][column]
    elif hasattr(data, "indices") and hasattr(data, "dataset"):  # torch's Subset
        whole = class_numbers_of(data.dataset)
        found = None if whole is None else whole[np.asarray(data.indices)]
    else:
        found = getattr(data, "targets", None)
        if found is None and len(getattr(data, "tensors", ())) == 2:
            found = data.tensors[1]
    try:
        labels = np.asarray(found)
    except (TypeError, ValueError):  # of several lengths
        return None
    return labels if found is not None and holds_classes(labels) and len(labels) == len(data) else None

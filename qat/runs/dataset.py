"""Data sets: images and labels in NumPy, in batches for either framework."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import numpy as np

from qat.errors import DataError
from qat.system.passes import Key, Passes

from .splits import holds_classes, mixed_order

#: The images that are checked at once: a mapped file is never read whole.
_CHECKED = 256

Split = Literal["train", "validation", "test"]

#: The images and labels of a batch, or its images alone.
Arrays: TypeAlias = tuple[np.ndarray, ...]


class Decoded(Protocol):
    """Images ``[n, height, width, channels]`` that are made as they are asked for, a batch at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""

    @property
    def dtype(self) -> np.dtype:
        """The type of a value."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: np.ndarray, /) -> np.ndarray:
        """Return the images of these indices."""

    def fingerprint(self) -> bytes:
        """Return what tells these images from others, without making them."""


Images: TypeAlias = np.ndarray | Decoded


def fingerprint(x: Images) -> bytes:
    """Return what tells images from others: a hash of their values; of files that of their names, sizes and times of change."""
    if not isinstance(x, np.ndarray):
        return x.fingerprint()
    content = hashlib.sha256()
    for first in range(0, len(x), _CHECKED):
        content.update(x[first : first + _CHECKED].tobytes())
    return content.digest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ``[n, height, width, channels]`` (uint8 or float32) and their labels: training, test, and at will validation.

    Labels are class numbers ``[n]`` from 0, or arrays of any shape that the run's loss takes; None for none. A batch's pixels are
    ``(x * scale - mean) / std``, where ``mean`` and ``std`` are one number or one a channel; ``scale`` is 1 / 255 for uint8
    images. Images are read by their indices, batch by batch: they may be an ``np.memmap``. Without ``val_x`` and ``val_y`` a
    tenth of the training images is held out as validation data: each class in its share, chosen by ``seed``.
    """

    name: str
    train_x: Images
    train_y: np.ndarray | None
    test_x: Images
    test_y: np.ndarray | None
    scale: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    val_x: Images | None = None
    val_y: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    seed: int = 0

    @property
    def classes(self) -> int | None:
        """The number of classes; None where labels are no class numbers."""
        if self.class_names:
            return len(self.class_names)
        labels = [y for y in (self.train_y, self.test_y) if y is not None]
        return int(max(y.max() for y in labels)) + 1 if labels and all(map(holds_classes, labels)) else None

    @property
    def decoded(self) -> bool:
        """Whether images are decoded from files as they are asked for, which takes time."""
        return not isinstance(self.train_x, np.ndarray)

    def content(self) -> str:
        """Return a digest of the training data, by which the float model that was trained on them is found again."""
        found = hashlib.sha256(fingerprint(self.train_x))
        if self.train_y is not None:
            found.update(self.train_y.tobytes())
        return f"{found.hexdigest()} {self.train_x.shape} {self.val_x is None}"

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """The training images that train, every beginning of them a stratified sample, and those that are held out."""
        count = len(self.train_x)
        order = mixed_order(self.train_y, count, self.seed)
        if self.val_x is not None:
            return order, order[:0]
        held_out = max(1, count // 10)
        kept = order[held_out:]
        labels = None if self.train_y is None else self.train_y[kept]
        return kept[mixed_order(labels, len(kept), self.seed)], order[:held_out]

    def part(self, split: Split, limit: int | None = None) -> tuple[Images, np.ndarray | None, np.ndarray]:
        """Return the images and labels that a split is taken from, and the indices of its first ``limit`` samples in them."""
        if split == "test":
            return self.test_x, self.test_y, np.arange(len(self.test_x))[:limit]
        if split == "validation" and self.val_x is not None:
            return self.val_x, self.val_y, np.arange(len(self.val_x))[:limit]
        return self.train_x, self.train_y, self._order[split == "validation"][:limit]

    def labels(self, split: Split, limit: int | None = None) -> np.ndarray | None:
        """Return the labels of a split's first ``limit`` samples; None without labels."""
        _, y, chosen = self.part(split, limit)
        return None if y is None else y[chosen]

    def batches(
        self,
        split: Split,
        size: int,
        layout: str = "NHWC",
        shuffle: int | None = None,
        flip: bool = False,
        limit: int | None = None,
    ) -> Batches:
        """Return the batches of a split.

        Args:
            split: ``train``, ``validation`` or ``test``. ``train`` leaves the validation data out: what chooses a checkpoint is
                neither trained on nor reported.
            size: images a batch; the last one of a shuffled split is left out if it is smaller.
            layout: ``NHWC`` or ``NCHW``.
            shuffle: a seed, which with the epoch's number gives its order; None keeps the order.
            flip: whether half of the images are mirrored.
            limit: at most so many images; of the training data a stratified sample.
        """
        return Batches(self, *self.part(split, limit), size, layout, shuffle, flip)

    def reference(self, size: int, layout: str, count: int) -> Batches:
        """Return batches of at most ``count`` test samples, each class in its share."""
        x, y, chosen = self.part("test")
        order = mixed_order(None if y is None else y[chosen], len(chosen), self.seed)[:count]
        return Batches(self, x, y, chosen[order], size, layout, None, False)


class Batches(Passes):
    """The batches ``(images, labels)`` of a split, or ``(images,)`` of data without labels.

    They are made as they are asked for.
    """

    def __init__(
        self,
        data: Dataset,
        x: Images,
        y: np.ndarray | None,
        part: np.ndarray,
        size: int,
        layout: str,
        shuffle: int | None,
        flip: bool,
    ) -> None:
        super().__init__(part, size, shuffle)
        self._x, self._y, self._layout, self._flip = x, y, layout, flip
        self._scale, self._mean, self._std = (np.asarray(v, np.float32) for v in (data.scale, data.mean, data.std))

    def keys(self) -> list[Key]:
        """Return what the batches of the next iteration are made of: any process makes them alike."""
        found = self.next_pass()
        mirrored = found.random.random(len(found.order)) < 0.5 if self._flip and found.random is not None else None
        return [Key(found.order[place], None if mirrored is None else mirrored[place]) for place in found.places]

    def make(self, key: Key) -> Arrays:
        """Return a batch.

        Raises:
            DataError: an image cannot be read.
        """
        x = (self._x[key.chosen].astype(np.float32) * self._scale - self._mean) / self._std
        if key.mirrored is not None:
            x[key.mirrored] = x[key.mirrored, :, ::-1]
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2) if self._layout == "NCHW" else x, np.float32)
        return (x,) if self._y is None else (x, self._y[key.chosen])

    def __iter__(self) -> Iterator[Arrays]:
        return map(self.make, self.keys())


def class_numbers(labels: np.ndarray) -> np.ndarray:
    """Return one-hot rows as the class numbers that they stand for, integers ``[n, 1]`` as ``[n]``, other labels as they are."""
    if labels.ndim != 2 or not labels.size:
        return labels
    if labels.shape[1] == 1:
        return labels[:, 0] if np.issubdtype(labels.dtype, np.integer) else labels
    one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()
    return labels.argmax(1) if one_hot else labels


def checked(data: Dataset) -> Dataset:
    """Return a data set after checking it.

    Raises:
        DataError: a split is empty, images and labels differ in number, class numbers do not count from 0, or a value is NaN.
    """
    splits = [("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)]
    if data.val_x is not None:
        splits.append(("validation", data.val_x, data.val_y))
    for split, x, y in splits:
        where = f"data set '{data.name}', {split} split"
        _check_images(x, where)
        if (y is None) != (data.train_y is None):
            raise DataError(f"{where}: give labels of every split, or of none")
        if y is not None:
            _check_labels(x, y, where)
    if data.val_x is None and len(data.train_x) < 2:
        raise DataError(f"data set '{data.name}': one training image, of which a tenth is held out: give two or more")
    for split, x, y in splits[1:]:
        if data.train_x.shape[1:] != x.shape[1:]:
            raise DataError(f"data set '{data.name}': training images are {data.train_x.shape[1:]}, {split} images {x.shape[1:]}")
        last = data.train_y.max() if data.train_y is not None and holds_classes(data.train_y) else None
        if last is not None and y is not None and holds_classes(y) and y.max() > last:
            raise DataError(
                f"data set '{data.name}': {split} label {y.max()} is out of range: the training labels end at {last}; where the "
                "samples are sorted by class, shuffle them before they are split"
            )
    for name, values in (("mean", data.mean), ("std", data.std)):
        if np.size(values) not in (1, data.train_x.shape[-1]):
            raise DataError(
                f"data set '{data.name}': {name} has {np.size(values)} numbers, the images have {data.train_x.shape[-1]} channels"
            )
    labels = [y for _, _, y in splits if y is not None]
    if labels and all(map(holds_classes, labels)) and min(int(y.min()) for y in labels) == 1:
        raise DataError(
            f"data set '{data.name}': labels start at 1, and classes count from 0: subtract 1 from the labels of every split"
        )
    return data


def _check_images(x: Images, where: str) -> None:
    if len(x.shape) == 0:
        raise DataError(f"{where}: images and labels must be arrays with one entry a sample")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{where}: images are {x.dtype}, expected uint8 (0 to 255) or float32")
    if len(x) == 0:
        raise DataError(f"{where}: there are no images")
    if len(x.shape) != 4:
        raise DataError(
            f"{where}: images must be [n, height, width, channels], found {len(x.shape)} dimensions; "
            "inputs of other forms come from data.factory"
        )
    if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating):
        for first in range(0, len(x), _CHECKED):
            finite = np.isfinite(x[first : first + _CHECKED])
            if not finite.all():
                raise DataError(f"{where}: image {first + int(np.argwhere(~finite)[0][0])} holds NaN or infinite values")


def _check_labels(x: Images, y: np.ndarray, where: str) -> None:
    if y.ndim == 0:
        raise DataError(f"{where}: images and labels must be arrays with one entry a sample")
    if len(x) != len(y):
        raise DataError(f"{where}: {len(x)} images but {len(y)} labels")
    if holds_classes(y) and y.min() < 0:
        raise DataError(f"{where}: label {int(y.min())} of image {int(y.argmin())} is out of range: classes count from 0")

"""Data sets: images and labels in NumPy, in batches for either framework."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from qat.errors import DataError

from .splits import holds_classes, mixed_order

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ``[n, height, width, channels]`` (uint8 or float32) and their labels: training, test, and at will validation.

    Labels are class numbers ``[n]`` from 0, or arrays of any shape that the run's loss takes; None for none. A batch's pixels are
    ``(x * scale - mean) / std``; ``scale`` is 1 / 255 for uint8 images. Without ``val_x`` and ``val_y`` a tenth of the training
    images is held out as validation data: each class in its share, chosen by ``seed``.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray | None
    test_x: np.ndarray
    test_y: np.ndarray | None
    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    val_x: np.ndarray | None = None
    val_y: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    seed: int = 0

    @property
    def classes(self) -> int | None:
        """The number of classes; None where labels are no class numbers."""
        labels = [y for y in (self.train_y, self.test_y) if y is not None]
        return int(max(y.max() for y in labels)) + 1 if labels and all(map(holds_classes, labels)) else None

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

    def part(self, split: Split, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
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


class Batches:
    """The batches ``(images, labels)`` of a split, or ``(images,)`` of data without labels.

    There are ``len`` of them, iterated as often as wanted, made as they are asked for.
    """

    def __init__(
        self,
        data: Dataset,
        x: np.ndarray,
        y: np.ndarray | None,
        part: np.ndarray,
        size: int,
        layout: str,
        shuffle: int | None,
        flip: bool,
    ) -> None:
        self._data, self._x, self._y, self._part = data, x, y, part
        self._size, self._layout, self._flip = size, layout, flip
        self._seed, self._epoch = shuffle, 0

    def __len__(self) -> int:
        n = len(self._part)
        return n // self._size if self._seed is not None and n >= self._size else -(-n // self._size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration's order belongs to: a run that resumes sees the same batches."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        random = None if self._seed is None else np.random.default_rng((self._seed, self._epoch))
        self._epoch += 1
        order = self._part if random is None else self._part[random.permutation(len(self._part))]
        for index in range(len(self)):
            chosen = order[index * self._size : (index + 1) * self._size]
            x = (self._x[chosen].astype(np.float32) * np.float32(self._data.scale) - np.float32(self._data.mean)) / np.float32(
                self._data.std
            )
            if self._flip and random is not None:
                mirrored = random.random(len(x)) < 0.5
                x[mirrored] = x[mirrored, :, ::-1]
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2) if self._layout == "NCHW" else x, np.float32)
            yield (x,) if self._y is None else (x, self._y[chosen])


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
        if y is not None and data.train_y is not None and holds_classes(y) and int(y.max()) > int(data.train_y.max()):
            raise DataError(
                f"data set '{data.name}': {split} label {int(y.max())} is out of range: the training labels end at "
                f"{data.train_y.max()}"
            )
    labels = [y for _, _, y in splits if y is not None]
    if labels and all(map(holds_classes, labels)) and min(int(y.min()) for y in labels) == 1:
        raise DataError(
            f"data set '{data.name}': labels start at 1, and classes count from 0: subtract 1 from the labels of every split"
        )
    return data


def _check_images(x: np.ndarray, where: str) -> None:
    if x.ndim == 0:
        raise DataError(f"{where}: images and labels must be arrays with one entry a sample")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{where}: images are {x.dtype}, expected uint8 (0 to 255) or float32")
    if len(x) == 0:
        raise DataError(f"{where}: there are no images")
    if x.ndim != 4:
        raise DataError(f"{where}: images must be [n, height, width, channels], found {x.ndim} dimensions")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise DataError(f"{where}: image {int(np.argwhere(~np.isfinite(x))[0][0])} holds NaN or infinite values")


def _check_labels(x: np.ndarray, y: np.ndarray, where: str) -> None:
    if y.ndim == 0:
        raise DataError(f"{where}: images and labels must be arrays with one entry a sample")
    if len(x) != len(y):
        raise DataError(f"{where}: {len(x)} images but {len(y)} labels")
    if holds_classes(y) and y.min() < 0:
        raise DataError(f"{where}: label {int(y.min())} of image {int(y.argmin())} is out of range: classes count from 0")

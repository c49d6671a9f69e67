"""Data sets: images and labels in NumPy, in batches for either framework."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qat.errors import DataError

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ``[n, height, width, channels]`` (uint8 or float32) and integer labels, in two splits.

    A batch's pixels are ``(x * scale - mean) / std``; ``scale`` is 1 / 255 for uint8 images.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(max(self.train_y.max(), self.test_y.max())) + 1

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
            split: ``train``, ``validation`` or ``test``. Validation is the last tenth of the training images, which ``train``
                leaves out: what chooses a checkpoint is neither trained on nor reported.
            size: images a batch; the last one of a shuffled split is left out if it is smaller.
            layout: ``NHWC`` or ``NCHW``.
            shuffle: a seed, which with the epoch's number gives its order; None keeps the order.
            flip: whether half of the images are mirrored.
            limit: at most so many images.
        """
        x, y = (self.test_x, self.test_y) if split == "test" else (self.train_x, self.train_y)
        if split != "test":
            kept = len(x) - max(1, len(x) // 10)
            part = slice(None, kept) if split == "train" else slice(kept, None)
            x, y = x[part], y[part]
        return Batches(self, x[:limit], y[:limit], size, layout, shuffle, flip)


class Batches:
    """The batches of a split: ``len`` of them, iterated as often as wanted, made as they are asked for."""

    def __init__(
        self, data: Dataset, x: np.ndarray, y: np.ndarray, size: int, layout: str, shuffle: int | None, flip: bool
    ) -> None:
        self._data, self._x, self._y, self._size, self._layout, self._flip = data, x, y, size, layout, flip
        self._seed, self._epoch = shuffle, 0

    def __len__(self) -> int:
        n = len(self._x)
        return n // self._size if self._seed is not None and n >= self._size else -(-n // self._size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration's order belongs to: a run that resumes sees the same batches."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random = None if self._seed is None else np.random.default_rng((self._seed, self._epoch))
        self._epoch += 1
        order = np.arange(len(self._x)) if random is None else random.permutation(len(self._x))
        for index in range(len(self)):
            chosen = order[index * self._size : (index + 1) * self._size]
            x = (self._x[chosen].astype(np.float32) * np.float32(self._data.scale) - np.float32(self._data.mean)) / np.float32(
                self._data.std
            )
            if self._flip and random is not None:
                mirrored = random.random(len(x)) < 0.5
                x[mirrored] = x[mirrored, :, ::-1]
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2) if self._layout == "NCHW" else x, np.float32)
            yield x, self._y[chosen]


def checked(data: Dataset) -> Dataset:
    """Return a data set after checking it.

    Raises:
        DataError: a split is empty, images and labels differ in number, labels are no integers from 0, or a value is NaN.
    """
    for split, x, y in (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)):
        where = f"data set '{data.name}', {split} split"
        if x.ndim == 0 or y.ndim == 0:
            raise DataError(f"{where}: images and labels must be arrays with one entry a sample")
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
            raise DataError(f"{where}: images are {x.dtype}, expected uint8 (0 to 255) or float32")
        if len(x) == 0:
            raise DataError(f"{where}: there are no images")
        if len(x) != len(y):
            raise DataError(f"{where}: {len(x)} images but {len(y)} labels")
        if x.ndim != 4:
            raise DataError(f"{where}: images must be [n, height, width, channels], found {x.ndim} dimensions")
        if not np.issubdtype(y.dtype, np.integer):
            raise DataError(f"{where}: labels must be integers, found {y.dtype}")
        if y.min() < 0:
            raise DataError(f"{where}: label {int(y.min())} of image {int(y.argmin())} is out of range: classes count from 0")
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise DataError(f"{where}: image {int(np.argwhere(~np.isfinite(x))[0][0])} holds NaN or infinite values")
    if len(data.train_x) < 2:
        raise DataError(f"data set '{data.name}': one training image, of which the last tenth is held out: give two or more")
    if data.train_x.shape[1:] != data.test_x.shape[1:]:
        raise DataError(
            f"data set '{data.name}': training images are {data.train_x.shape[1:]}, test images {data.test_x.shape[1:]}"
        )
    unseen = int(data.test_y.max())
    if unseen > int(data.train_y.max()):
        raise DataError(
            f"data set '{data.name}': test label {unseen} is out of range: the training labels end at {data.train_y.max()}"
        )
    return data

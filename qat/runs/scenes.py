"""Scenes for a detector: digits, or the articles of Fashion-MNIST, at random places and sizes, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.errors import DataError, MissingDependencyError

from . import datasets
from .dataset import Dataset, checked

#: The most objects of a scene. One scene in so many has none.
_MOST, _EMPTY = 4, 20
#: The height of an object as a share of the scene's: the least and the greatest.
_HEIGHTS = 0.18, 0.45
#: How much of the smaller one two objects may share.
_SHARED = 0.15
#: Places that are tried for an object before it is left out.
_TRIES = 20
#: The deviation of the pixels' noise, and the least contrast of an object.
_NOISE, _CONTRAST = 10.0, 0.5

_FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def scenes(path: str | Path | None = None, size: int | tuple[int, int] = 64, count: int = 2500, seed: int = 0) -> Dataset:
    """Return scenes of digits, or of the articles in a folder of IDX files; the test scenes hold test images alone.

    Labels are boxes around the ink, ``[n, 4, 5]``: left, top, right, bottom in pixels, and the class; -1 for no box.

    Args:
        path: the folder with MNIST's or Fashion-MNIST's four files; None for scikit-learn's embedded digits.
        size: height and width of a scene; one number for both.
        count: of scenes; a fifth of them are the test data.
        seed: the same seed gives the same scenes.

    Raises:
        DataError: the folder cannot be read, or the size or the count is too small.
        MissingDependencyError: scikit-learn or Pillow is not installed.

    Examples:
        >>> data = scenes(count=20)
        >>> data.train_x.shape, data.train_y.shape
        ((16, 64, 64, 1), (16, 4, 5))
    """
    size = (size, size) if isinstance(size, int) else size
    if min(size) < 32 or count < 10:
        raise DataError(f"{count} scenes of {size[0]} x {size[1]} pixels: 10 scenes and 32 pixels are the least")
    source = datasets.digits() if path is None else datasets.idx(path)
    bright = 16 if path is None else 1  # a digit's pixels count from 0 to 16
    random = np.random.default_rng(seed)
    made = {}
    for split, amount in (("train", count - count // 5), ("test", count // 5)):
        images, labels, _ = source.part("test" if split == "test" else "train")
        assert isinstance(images, np.ndarray) and labels is not None
        pixels = np.minimum(images[..., 0].astype(np.float32) * bright, 255).astype(np.uint8)
        made[split] = _drawn(_Objects(pixels, labels), size, amount, random)
    (train_x, train_y), (test_x, test_y) = made["train"], made["test"]
    names = tuple(map(str, range(10))) if path is None else _FASHION
    name = f"scenes of {'digits' if path is None else Path(path).name}"
    return checked(Dataset(name, train_x, train_y, test_x, test_y, scale=1 / 255, class_names=names, seed=seed))


@dataclass(frozen=True)
class _Objects:
    """Images uint8 ``[n, height, width]`` and their classes."""

    pixels: np.ndarray
    classes: np.ndarray

    def one(self, height: int, random: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return an object, cut to its ink and brought to a height, and its class."""
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingDependencyError("scenes are drawn by Pillow: pip install 'qat-toolkit[report]'") from error
        chosen = int(random.integers(len(self.pixels)))
        rows, columns = (np.flatnonzero(self.pixels[chosen].any(axis)) for axis in (1, 0))
        ink = self.pixels[chosen, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        width = max(round(height * ink.shape[1] / ink.shape[0]), 4)
        resized = Image.fromarray(ink).resize((min(width, 2 * height), height), Image.Resampling.BILINEAR)
        return np.asarray(resized), int(self.classes[chosen])


def _drawn(objects: _Objects, size: tuple[int, int], count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return scenes uint8 ``[count, height, width, 1]`` and their labels."""
    images, labels = np.zeros((count, *size, 1), np.uint8), np.full((count, _MOST, 5), -1, np.float32)
    low, high = (round(share * min(size)) for share in _HEIGHTS)
    for image, rows in zip(images, labels, strict=True):
        canvas = np.abs(random.normal(0, _NOISE, size))
        wanted = 0 if random.integers(_EMPTY) == 0 else int(random.integers(1, _MOST + 1))
        found: list[tuple[int, int, int, int]] = []
        for _ in range(wanted):
            patch, number = objects.one(int(random.integers(low, high + 1)), random)
            box = _place(patch.shape, size, found, random)
            if box is not None:
                left, top, right, bottom = box
                part = canvas[top:bottom, left:right]
                part[...] = np.maximum(part, patch * random.uniform(_CONTRAST, 1))
                rows[len(found)] = (*box, number)
                found.append(box)
        image[..., 0] = np.minimum(canvas, 255).astype(np.uint8)
    return images, labels


def _place(
    shape: tuple[int, ...], size: tuple[int, int], taken: list[tuple[int, int, int, int]], random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Return a place for a patch that covers little of the others; None where none was found."""
    height, width = shape
    for _ in range(_TRIES):
        left, top = int(random.integers(size[1] - width + 1)), int(random.integers(size[0] - height + 1))
        box = (left, top, left + width, top + height)
        if all(_shared(box, other) <= _SHARED for other in taken):
            return box
    return None


def _shared(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the share of the smaller box that lies in the other one."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))

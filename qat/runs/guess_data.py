"""Looking at a data set for `qat init`: how it lies, of what kind it is, its classes and their balance, its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qat.errors import DataError

from .array_files import ArrayFiles
from .dataset import Dataset, Split, class_numbers
from .guess import Guess
from .splits import holds_classes

_SPLITS: tuple[tuple[Split, str], ...] = (("train", "training"), ("validation", "validation"), ("test", "test"))

#: The most frequent class has more than this many times the samples of the rarest: the classes are unbalanced.
_UNBALANCED = 3


def data_source(path: Path, where: str, size: tuple[int, int] | None, channels: int | None) -> list[Guess]:
    """Return the keys by which a data set is read, and those of training that follow from its labels.

    Args:
        path: of a folder or a file.
        where: the path as the configuration writes it.
        size: height and width of the model's images, where it fixes them.
        channels: of the model's images, where it says.

    Raises:
        DataError: the path leads to nothing that a run can read.
    """
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(
                f"--data {path}: a file of data is an .npz of x_train, y_train, x_test, y_test; a folder holds images"
            )
        return _arrays("npz", path, where)
    if not path.is_dir():
        raise DataError(f"--data {path}: no such file or folder")
    if any(path.glob("*-ubyte*")):
        why = "the folder has MNIST's four files"
        return [Guess("data.source", "idx", why), Guess("data.path", where), Guess("data.name", path.name)]
    if (path / "x_train.npy").is_file():
        return _arrays("npy", path, where)
    return _folder(path, where, size, channels)


def _arrays(source: str, path: Path, where: str) -> list[Guess]:
    files = ArrayFiles(path)
    if "x_train" not in files:
        raise DataError(f"--data {path} has no array 'x_train': np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)")
    x = files["x_train"]
    guesses = [Guess("data.source", source, f"x_train is {x.dtype} {x.shape}"), Guess("data.path", where)]
    if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] not in (1, 3, 4):
        guesses.append(Guess("data.layout", "NCHW", f"images of shape {x.shape[1:]} have their channels first"))
    return guesses + _of_labels(class_numbers(np.asarray(files["y_train"])) if "y_train" in files else None)


def _of_labels(labels: np.ndarray | None) -> list[Guess]:
    """Return the keys of training that follow from labels that are no class numbers."""
    if labels is None:
        why = "there is no y_train: the model learns from the float model's own outputs"
        return [Guess("training.teacher", "float", why), Guess("training.labels", "none")]
    if labels.dtype.kind in "USO":
        raise DataError(
            f"y_train holds {labels.dtype}, not numbers: np.unique(names, return_inverse=True) numbers the names of classes"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        why = f"labels are {labels.dtype} of shape {labels.shape[1:] or '[]'}, numbers and no classes"
        return [
            Guess("training.loss", "mse", f"{why} (mae, huber, or package.module:function)"),
            Guess("training.metrics", ["mae"]),
        ]
    return []


def _folder(path: Path, where: str, size: tuple[int, int] | None, channels: int | None) -> list[Guess]:
    from PIL import Image

    from .image_files import SUFFIXES

    found = next((p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")), None)
    if found is None:
        raise DataError(f"--data {path} holds no images, no x_train.npy and no IDX files")
    with Image.open(found) as image:
        width, height = image.size
        gray = image.mode in ("1", "L", "I;16")
    shown = f"{found.relative_to(path)} has {height} x {width} pixels"
    if size is not None:
        chosen = Guess("data.size", list(size), f"height and width that the model takes; {shown}")
    else:
        side = 32 * max(1, round(min(height, width, 224) / 32)) if min(height, width) >= 32 else min(height, width)
        chosen = Guess("data.size", [side, side], f"{shown}, and the model takes any size; give the one that it was trained on")
    guesses = [Guess("data.source", "folder", "images in class folders"), Guess("data.path", where), chosen]
    if channels == 1 or (channels is None and gray):
        guesses.append(Guess("data.color", "gray", "the model takes one channel" if channels else "the images are gray"))
    return guesses


def batch_size(samples: int) -> int:
    """Return a usual batch size: a power of two up to 64, of which the data have sixteen or more."""
    return max(1, min(64, 1 << max(0, samples // 16).bit_length() >> 1))


def about(data: Dataset) -> str:
    """Return what a data set holds, in one sentence."""
    counts = ", ".join(f"{len(data.part(split)[2])} {name}" for split, name in _SPLITS)
    shape = "x".join(map(str, data.train_x.shape[1:]))
    return f"{counts} samples of {shape} ({data.train_x.dtype}){_of_classes(data)}"


def _of_classes(data: Dataset) -> str:
    counts = class_counts(data)
    if not counts:
        return ""
    rarest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    names = f", {len(counts)} classes"
    return names if counts[rarest] == counts[most] else f"{names}: {counts[rarest]} of '{rarest}' to {counts[most]} of '{most}'"


def class_counts(data: Dataset) -> dict[str, int]:
    """Return the number of training samples of each class by its name; empty where labels are no classes."""
    labels = data.labels("train")
    if labels is None or not holds_classes(labels):
        return {}
    names = data.class_names
    classes, counts = np.unique(labels, return_counts=True)
    return {names[c] if c < len(names) else str(c): int(n) for c, n in zip(classes.tolist(), counts.tolist(), strict=True)}


def balance(data: Dataset) -> list[Guess]:
    """Return the metrics that unbalanced classes ask for."""
    counts = class_counts(data)
    if not counts or max(counts.values()) <= _UNBALANCED * min(counts.values()):
        return []
    rarest = min(counts, key=counts.__getitem__)
    why = f"the classes are unbalanced ('{rarest}' has {counts[rarest]} of {sum(counts.values())}): F1 weighs them alike"
    return [Guess("training.metrics", ["f1", "top1"], why)]

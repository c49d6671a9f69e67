"""The sources of data sets: the embedded digits, IDX files (MNIST's format), .npz files, image folders, a factory."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import DataError, MissingDependencyError, QatError
from qat.typing import Layout

from .dataset import Dataset, checked, class_numbers


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's embedded digits: 1,797 real 8x8 images, 500 of them for testing."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingDependencyError("the digits need scikit-learn: pip install 'qat-toolkit[report]'") from error
    bunch = load_digits()
    x = bunch.images.astype(np.float32)[..., None]
    train_x, test_x, train_y, test_y = train_test_split(
        x, bunch.target.astype(np.int64), test_size=500, random_state=seed, stratify=bunch.target
    )
    return checked(Dataset("digits", train_x, train_y, test_x, test_y, scale=1 / 16, mean=0.3, std=0.38))


_IDX = {"train": "train", "test": "t10k"}


def idx(folder: str | Path, name: str = "idx", mean: float = 0.0, std: float = 1.0) -> Dataset:
    """Return the data set of a folder with the four IDX files of MNIST or Fashion-MNIST, gzipped or not."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"no such folder: {folder}; it should hold train-images-idx3-ubyte[.gz] and its three companions (Debian's package "
            "dataset-fashion-mnist installs them; set FASHION_MNIST to their folder)"
        )
    parts = {}
    for split, prefix in _IDX.items():
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte")
        parts[split] = (images[..., None], _read_idx(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64))
    (train_x, train_y), (test_x, test_y) = parts["train"], parts["test"]
    return checked(Dataset(name, train_x, train_y, test_x, test_y, scale=1 / 255, mean=mean, std=std))


def _read_idx(folder: Path, stem: str) -> np.ndarray:
    """Read one IDX file: a magic number 0, 0, type 8 (uint8), rank; the sizes as big-endian int32; the values."""
    path = next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder} has no {stem}[.gz]")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of bytes")
    rank = raw[3]
    shape = tuple(int(n) for n in np.frombuffer(raw, ">i4", rank, 4))
    if len(raw) != 4 + 4 * rank + int(np.prod(shape)):
        raise DataError(f"{path} is truncated: {len(raw)} bytes do not hold {'x'.join(map(str, shape))} values")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def npz(path: str | Path, mean: float = 0.0, std: float = 1.0, layout: Layout = "NHWC", labelled: bool = True) -> Dataset:
    """Return the data set of an ``.npz`` file with ``x_train, y_train, x_test, y_test``, at will ``x_val, y_val``.

    Images are ``[n, height, width, channels]`` (``[n, channels, height, width]`` of layout NCHW) or, of one channel,
    ``[n, height, width]``; uint8 (0 to 255) or any float. Labels are class numbers from 0 as ``[n]``, ``[n, 1]`` or one-hot, or
    others of any shape. Where they are not needed (``labelled`` is False), they are not read.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder, not an .npz file" if path.is_dir() else "no such file"
        raise DataError(f"{kind}: {path}")
    kinds = ("x", "y") if labelled else ("x",)
    needed = tuple(f"{kind}_{split}" for split in ("train", "test") for kind in kinds)
    own = tuple(f"{kind}_val" for kind in kinds)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {n: file[n] for n in (*needed, *own) if n in file.files}
    except PermissionError:
        raise  # it is not the file's content
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is not a whole .npz file: {error}") from error
    if missing := [n for n in (*needed, *own) if n not in arrays and (n in needed or not arrays.keys().isdisjoint(own))]:
        raise DataError(f"{path} has no array '{missing[0]}': it needs {', '.join(needed)}, and may have {' and '.join(own)}")
    images = {n: _channels_last(x, layout) for n, x in arrays.items() if n.startswith("x_")}
    labels = {n: class_numbers(y) for n, y in arrays.items() if n.startswith("y_")}
    scale = 1 / 255 if images["x_train"].dtype == np.uint8 else 1.0
    return checked(
        Dataset(
            path.stem, images["x_train"], labels.get("y_train"), images["x_test"], labels.get("y_test"), scale=scale, mean=mean,
            std=std, val_x=images.get("x_val"), val_y=labels.get("y_val"),
        )
    )  # fmt: skip


def _channels_last(x: np.ndarray, layout: Layout) -> np.ndarray:
    if x.ndim == 3:
        return x[..., None]
    return x.transpose(0, 2, 3, 1) if layout == "NCHW" and x.ndim == 4 else x


_VALIDATION_FOLDERS = ("val", "valid", "validation")


def image_folder(folder: str | Path, size: tuple[int, int], mean: float = 0.0, std: float = 1.0) -> Dataset:
    """Return the data set of ``<folder>/{train,test}/<class>/*``, resized to ``size`` (height, width).

    A folder ``val``, ``valid`` or ``validation`` beside them has the validation data. Names that begin with a dot are ignored.
    """
    folder = Path(folder)
    train_x, train_y, classes = _images(folder / "train", size)
    test_x, test_y, _ = _images(folder / "test", size, classes)
    found = [folder / name for name in _VALIDATION_FOLDERS if (folder / name).is_dir()]
    if len(found) > 1:
        raise DataError(f"{folder} has both {found[0].name}/ and {found[1].name}/: keep one folder of validation data")
    val_x, val_y, _ = _images(found[0], size, classes) if found else (None, None, ())
    return checked(
        Dataset(
            folder.name, train_x, train_y, test_x, test_y, scale=1 / 255, mean=mean, std=std, val_x=val_x, val_y=val_y,
            class_names=classes,
        )
    )  # fmt: skip


def _images(
    root: Path, size: tuple[int, int], classes: tuple[str, ...] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the images, labels and classes of ``<root>/<class>/*``."""
    from PIL import Image, UnidentifiedImageError

    if not root.is_dir():
        raise DataError(f"no such folder: {root}; an image folder holds train/<class>/ and test/<class>/")
    found = tuple(p.name for p in _visible(root) if p.is_dir())
    if not found:
        raise DataError(f"{root} has no classes: an image folder holds train/<class>/ and test/<class>/")
    if classes is not None and found != classes:
        raise DataError(f"{root} has classes {list(found[:5])}, train has {list(classes[:5])}")
    images, labels = [], []
    for label, name in enumerate(found):
        files = [p for p in _visible(root / name) if p.is_file()]
        if not files:
            raise DataError(f"{root / name} has no images")
        for path in files:
            try:
                with Image.open(path) as image:
                    images.append(np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)))
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(f"{path} is not an image: {error}") from error
            labels.append(label)
    return np.stack(images), np.array(labels, np.int64), found


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without the files and folders that a system hides there (.DS_Store, .git)."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def factory(make: Callable[..., Any], **kwargs: Any) -> Dataset:
    """Return the Dataset that a user's function makes, checked."""
    try:
        data = make(**kwargs)
    except QatError:
        raise
    except Exception as error:
        raise DataError(f"the data factory with kwargs {kwargs} raises {type(error).__name__}: {error}") from error
    if not isinstance(data, Dataset):
        raise DataError(f"the data factory returned a {type(data).__name__}: return a qat.runs.dataset.Dataset")
    return checked(data)

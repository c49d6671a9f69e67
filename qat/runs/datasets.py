"""The sources of data sets: the embedded digits, IDX files (MNIST's format), .npz files, image folders, a factory."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from qat.errors import DataError, MissingDependencyError, QatError
from qat.typing import Layout

from .array_files import ArrayFiles
from .dataset import Dataset, checked, class_numbers
from .image_files import ImageFiles, ImageForm, Labelled, labelled_files
from .splits import mixed_order

log = logging.getLogger("qat")

#: A mean or a deviation of pixels: one number, or one a channel.
Pixels: TypeAlias = float | tuple[float, ...]


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


def idx(folder: str | Path, name: str = "idx", mean: Pixels = 0.0, std: Pixels = 1.0) -> Dataset:
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


def npz(
    path: str | Path,
    mean: Pixels = 0.0,
    std: Pixels = 1.0,
    layout: Layout = "NHWC",
    labelled: bool = True,
) -> Dataset:
    """Return the data set of an ``.npz`` file with ``x_train, y_train, x_test, y_test``, at will ``x_val, y_val``.

    A folder with ``x_train.npy`` and so on is the same. Images are ``[n, height, width, channels]`` (``[n, channels, height,
    width]`` of layout NCHW) or, of one channel, ``[n, height, width]``; uint8 (0 to 255) or any float. Large ones are mapped, not
    read: see :mod:`qat.runs.array_files`. Labels are class numbers from 0 as ``[n]``, ``[n, 1]`` or one-hot, or others of any
    shape. Where they are not needed (``labelled`` is False), they are not read.
    """
    path = Path(path)
    files = ArrayFiles(path)
    kinds = ("x", "y") if labelled else ("x",)
    needed = tuple(f"{kind}_{split}" for split in ("train", "test") for kind in kinds)
    own = tuple(f"{kind}_val" for kind in kinds)
    if missing := [n for n in (*needed, *own) if n not in files and (n in needed or any(o in files for o in own))]:
        without = "; without labels write training: {labels: none, teacher: float}" if missing[0] == "y_train" else ""
        raise DataError(
            f"{path} has no array '{missing[0]}': it needs {', '.join(needed)}, and may have {' and '.join(own)}{without}"
        )
    arrays = {n: files[n] for n in (*needed, *own) if n in files}
    images = {n: _channels_last(x, layout) for n, x in arrays.items() if n.startswith("x_")}
    labels = {n: class_numbers(np.asarray(y)) for n, y in arrays.items() if n.startswith("y_")}
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


def image_folder(
    folder: str | Path,
    form: ImageForm | tuple[int, int] = ImageForm(),  # noqa: B008 - frozen
    mean: Pixels = 0.0,
    std: Pixels = 1.0,
    seed: int = 0,
) -> Dataset:
    """Return the data set of an image folder. Files are listed and their headers read; pixels are decoded batch by batch.

    Names that begin with a dot, and files that are no images by their names, are ignored.

    Args:
        folder: holds ``{train,test}/<class>/*``, and at will the validation data in ``val``, ``valid`` or ``validation``. With
            validation data and no ``test``, those are the test data, and a tenth of the training images is held out. Without any
            of these folders it holds ``<class>/*``, of which a fifth, each class in its share, are the test data.
        form: of the images, or their size (height, width).
        mean: see :class:`qat.runs.dataset.Dataset`.
        std: the same.
        seed: chooses the test data where the folder has none.

    Raises:
        DataError: the folder has another form, or a file is no whole image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; an image folder holds train/<class>/ and test/<class>/")
    form = form if isinstance(form, ImageForm) else ImageForm(form)
    parts = _folder_parts(folder, seed)
    images = {name: ImageFiles(part.paths, form) for name, part in parts.items()}
    for files in images.values():
        files.check()
    labels = {name: part.labels for name, part in parts.items()}
    return checked(
        Dataset(
            folder.name, images["train"], labels["train"], images["test"], labels["test"], scale=1 / 255, mean=mean, std=std,
            val_x=images.get("validation"), val_y=labels.get("validation"), class_names=parts["train"].classes,
        )
    )  # fmt: skip


def _folder_parts(folder: Path, seed: int) -> dict[str, Labelled]:
    """Return the files of the training and test data of an image folder, and of its validation data where it has any."""
    own = [folder / name for name in _VALIDATION_FOLDERS if (folder / name).is_dir()]
    if len(own) > 1:
        raise DataError(f"{folder} has both {own[0].name}/ and {own[1].name}/: keep one folder of validation data")
    train, test = folder / "train", folder / "test"
    if not (train.is_dir() or test.is_dir() or own):
        whole = labelled_files(folder)
        order = mixed_order(whole.labels, len(whole.paths), seed)
        count = max(1, len(order) // 5)
        log.warning("%s has no test/: %d of its %d images, each class in its share, are the test data", folder, count, len(order))
        return {"train": whole.part(np.sort(order[count:])), "test": whole.part(np.sort(order[:count]))}
    if not train.is_dir():
        raise DataError(f"no such folder: {train}; an image folder holds train/<class>/ and test/<class>/")
    parts = {"train": labelled_files(train)}
    classes = parts["train"].classes
    if own and not test.is_dir():
        log.warning("%s has no test/: %s/ is reported on, and a tenth of train/ chooses the checkpoint", folder, own[0].name)
        return parts | {"test": labelled_files(own[0], classes)}
    if not test.is_dir():
        raise DataError(f"no such folder: {test}; an image folder holds train/<class>/ and test/<class>/ or val/<class>/")
    parts["test"] = labelled_files(test, classes)
    return parts | ({"validation": labelled_files(own[0], classes)} if own else {})


def factory(make: Callable[..., Any], **kwargs: Any) -> Any:
    """Return what a user's function makes; a Dataset is checked."""
    try:
        data = make(**kwargs)
    except QatError:
        raise
    except Exception as error:
        raise DataError(f"the data factory with kwargs {kwargs} raises {type(error).__name__}: {error}") from error
    return checked(data) if isinstance(data, Dataset) else data

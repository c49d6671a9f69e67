"""Samples for a file: a folder of images, arrays of an ``.npz``, what a function returns, or random numbers."""

from __future__ import annotations

import logging
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from qat.errors import ConfigError, DataError, nearest, reason_of
from qat.system.given_files import check_file
from qat.system.import_object import import_object
from qat.system.sample_axes import Axes
from qat.system.samples import first_of_pair

from .inputs import Wanted, axes_of

log = logging.getLogger("qat")

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")

#: The mean and the standard deviation of pixels (0 to 255) by which each range is made: ``(x - mean) / std``.
Normalization: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
SCALES: dict[str, Normalization] = {
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "0..255": ((0.0,), (1.0,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}

#: The most random samples, and the most numbers in those of an input: 1 GiB of float32.
_RANDOM, _NUMBERS = 64, 2**28


@dataclass(frozen=True)
class Samples:
    """Samples of a model's inputs.

    Attributes:
        arrays: one for each input, ``[samples, ...]``, in the order of the inputs.
        said: what they are, for a person.
        axes: of each input that which counts its samples in a batch.
        random: whether they are random numbers.
    """

    arrays: tuple[np.ndarray, ...]
    said: str
    axes: Axes
    random: bool = False

    def __len__(self) -> int:
        return len(self.arrays[0])


def samples_for(
    wanted: Sequence[Wanted], data: Any, scale: str | None, normalization: Normalization | None, count: int, seed: int
) -> Samples:
    """Return at most ``count`` samples of the inputs, drawn by a seed.

    Args:
        wanted: the inputs.
        data: a folder of images, the path of an ``.npz`` or ``.npy``, ``package.module:function``, ``random``; or arrays,
            batches of them, or a mapping of them by the inputs' names.
        scale: the range of images' values, a name of :data:`SCALES` or ``mean,std`` of pixels from 0 to 255; None takes
            ``normalization``.
        normalization: that the file's metadata name, if any.
        count: the most samples.
        seed: of the draw.

    Raises:
        DataError: the data are missing, cannot be read or do not fit.
        ConfigError: the range of images is not known.
    """
    if data is None:
        raise DataError(
            "no data to run the model on: give a folder of images, an .npz or package.module:function like the inputs of the "
            "application, or 'random' to see what that is worth"
        )
    if isinstance(data, (str, Path)):
        text = str(data)
        if text == "random":
            return _random(wanted, count, seed)
        if Path(text).is_dir():
            return _images(wanted, Path(text), _normalization(scale, normalization, text), count, seed)
        if Path(text).suffix in (".npz", ".npy"):
            return _drawn(wanted, arrays_of(Path(text)), text, count, seed)
        if ":" not in text:
            raise DataError(f"data '{text}' is no folder, no .npz or .npy file, and not written package.module:function")
        data = _made(import_object(text, "data"), text)
        return _drawn(wanted, data, text, count, seed)
    return _drawn(wanted, data, "the arrays given", count, seed)


def _random(wanted: Sequence[Wanted], count: int, seed: int) -> Samples:
    if free := next((w for w in wanted if None in w.of_one), None):
        way = "a size, HEIGHTxWIDTH" if free.channel_axis else "them: give an .npz with arrays of the application's sizes"
        raise DataError(f"input '{free.name}' takes {free.said}: random data need {way}")
    numbers = [math.prod(n or 1 for n in w.of_one) for w in wanted]
    count = min(count, _RANDOM, _NUMBERS // max(numbers, default=1))
    if not count:
        one = wanted[numbers.index(max(numbers))]
        raise DataError(f"input '{one.name}' takes {one.said}: one sample is more than random data are made for; give an .npz")
    log.warning(
        "calibrated on random numbers from 0 to 1: the file's size and speed are those of a calibrated one, its answers are not; "
        "data like the application's inputs are needed for those"
    )
    random = np.random.default_rng(seed)
    made = tuple(random.random((count, *(n or 1 for n in w.of_one))).astype(w.dtype) for w in wanted)
    return Samples(made, f"{count} random samples", axes_of(wanted), True)


def _normalization(scale: str | None, known: Normalization | None, folder: str) -> Normalization:
    if scale is None:
        if known is None:
            raise ConfigError(
                f"{folder}: the file does not say in which range it wants its pixels: give scale, one of {', '.join(SCALES)}, or "
                "MEAN,STD of pixels from 0 to 255"
            )
        return known
    if scale in SCALES:
        return SCALES[scale]
    try:
        mean, std = (float(part) for part in scale.split(","))
    except ValueError as error:
        raise ConfigError(f"unknown scale '{scale}'{nearest(scale, SCALES)}; valid: {', '.join(SCALES)}, or MEAN,STD") from error
    if std == 0:
        raise ConfigError("scale: a STD of 0 would divide by zero")
    return (mean,), (std,)


def _images(wanted: Sequence[Wanted], folder: Path, normalization: Normalization, count: int, seed: int) -> Samples:
    from PIL import Image, UnidentifiedImageError

    if len(wanted) != 1 or wanted[0].channel_axis is None:
        shapes = ", ".join(f"{w.name} {w.shape}" for w in wanted)
        raise DataError(f"{folder}: a folder of images is for a model of one image; this one takes {shapes}: give an .npz")
    (one,) = wanted
    height, width = one.image_size
    if height is None or width is None:
        raise DataError(f"input '{one.name}' takes images of any size: give size, HEIGHTxWIDTH")
    axis = one.channel_axis or 1
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[one.shape[axis] or 3]
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGES and not p.name.startswith("."))
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(_IMAGES)})")
    chosen = [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:count]]
    mean, std = (np.asarray(values, np.float32) for values in normalization)
    images = np.empty((len(chosen), height, width, one.shape[axis] or 3), np.float32)
    for place, path in zip(images, chosen, strict=True):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR), np.float32)
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path} is not an image: {error}") from error
        place[:] = (pixels.reshape(height, width, -1) - mean) / std
    low, high = ((0 - mean) / std).min(), ((255 - mean) / std).max()
    if axis == 1:
        images = images.transpose(0, 3, 1, 2)
    said = f"{len(chosen)} of {len(found)} images of {folder}, {width}x{height}, values from {low:.4g} to {high:.4g}"
    return Samples((one.check(images),), said, axes_of(wanted))


def arrays_of(path: Path) -> Any:
    """Return the array of an ``.npy``, or those of an ``.npz`` by name. Raises DataError where it is not whole."""
    check_file(path)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return {name: found[name] for name in found.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole {path.suffix} file: {error}") from error


def _made(function: Callable[[], Any], text: str) -> Any:
    try:
        return function()
    except Exception as error:  # whatever the user's function raises
        raise DataError(f"data '{text}' raises {type(error).__name__}: {reason_of(error)}") from error


def _drawn(wanted: Sequence[Wanted], data: Any, said: str, count: int, seed: int) -> Samples:
    """Return samples of arrays, a mapping of them by name, or batches."""
    arrays = [w.check(x) for w, x in zip(wanted, _by_input(wanted, data, said, count), strict=True)]
    total = max(len(x) for x in arrays)
    arrays = [
        np.broadcast_to(x, (total, *x.shape[1:])) if w.axis is None and len(x) == 1 else x
        for w, x in zip(wanted, arrays, strict=True)
    ]
    if len({len(x) for x in arrays}) > 1:
        raise DataError(f"{said}: the inputs have different numbers of samples: {', '.join(str(len(x)) for x in arrays)}")
    order = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    return Samples(tuple(x[order] for x in arrays), f"{len(order)} of {total} samples of {said}", axes_of(wanted))


def _by_input(wanted: Sequence[Wanted], data: Any, said: str, count: int) -> list[np.ndarray]:
    if isinstance(data, Mapping):
        named = {str(name): np.asarray(value) for name, value in data.items()}
        if len(wanted) == 1 and len(named) == 1:
            return [*named.values()]
        missing = [w.name for w in wanted if w.name not in named]
        if missing:
            raise DataError(f"{said} has no array '{missing[0]}'{nearest(missing[0], named)}; it has {', '.join(named)}")
        return [named[w.name] for w in wanted]
    if hasattr(data, "shape"):
        return [np.asarray(data)]
    if isinstance(data, tuple) and len(data) == len(wanted) > 1 and all(hasattr(x, "shape") for x in data):
        return [np.asarray(x) for x in data]
    if not isinstance(data, Iterable):
        raise DataError(f"{said}: expected arrays or batches of them, found {type(data).__name__}")
    return _joined(wanted, data, said, count)


def _joined(wanted: Sequence[Wanted], data: Iterable[Any], said: str, count: int) -> list[np.ndarray]:
    """Return the inputs of the first batches, until there are enough samples."""
    parts: list[list[np.ndarray]] = [[] for _ in wanted]
    seen, first = 0, wanted[0].axis
    for batch in data:
        inputs = first_of_pair(batch, len(wanted))
        inputs = [inputs[w.name] for w in wanted] if isinstance(inputs, Mapping) else inputs
        values = inputs if isinstance(inputs, (tuple, list)) else [inputs]
        if len(values) != len(wanted):
            raise DataError(f"{said}: a batch holds {len(values)} inputs, the model takes {len(wanted)}")
        for part, value in zip(parts, values, strict=True):
            part.append(np.asarray(value.detach().cpu() if hasattr(value, "detach") else value))
        seen += 1 if first is None else parts[0][-1].shape[first]
        if seen >= count:
            break
    if not seen:
        raise DataError(f"{said} yields no batches")
    return [np.stack(part) if w.axis is None else np.concatenate(part, w.axis) for w, part in zip(wanted, parts, strict=True)]

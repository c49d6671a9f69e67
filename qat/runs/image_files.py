"""Images in files: found in folders by class, checked by their headers, and decoded as they are asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from qat.errors import DataError, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("qat")

Resize = Literal["stretch", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
Color = Literal["rgb", "gray"]

#: The names that an image's file may end with; files of other names are no part of the data.
SUFFIXES = frozenset((".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))

#: The last bytes of a whole file, and how many bytes may follow them.
_ENDS = {"JPEG": (b"\xff\xd9", 0), "PNG": (b"IEND", 4)}


@dataclass(frozen=True)
class ImageForm:
    """The form that every image is brought into: uint8 ``[height, width, channels]``.

    Attributes:
        size: (height, width).
        resize: ``stretch`` the whole image to the size, ``crop`` its middle, or ``pad`` it with black.
        interpolation: of the resizing.
        color: ``rgb``, three channels, or ``gray``, one.
    """

    size: tuple[int, int] = (224, 224)
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    color: Color = "rgb"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return (*self.size, 3 if self.color == "rgb" else 1)

    def of(self, image: Image) -> np.ndarray:
        """Return the pixels of an opened image, upright by its EXIF orientation, without transparency."""
        from PIL import Image as images
        from PIL import ImageOps

        method, (height, width) = images.Resampling[self.interpolation.upper()], self.size
        ImageOps.exif_transpose(image, in_place=True)
        if "transparency" in image.info:
            image = image.convert("RGBA")
        image = _of_8_bits(image).convert("RGB" if self.color == "rgb" else "L")
        if self.resize == "crop":
            image = ImageOps.fit(image, (width, height), method)
        elif self.resize == "pad":
            image = ImageOps.pad(image, (width, height), method)
        else:
            image = image.resize((width, height), method)
        return np.asarray(image).reshape(self.shape)


def _of_8_bits(image: Image) -> Image:
    """Return an image with its pixels' upper 8 bits, where they have 16; a conversion to RGB would cut them at 255."""
    from PIL import Image as images

    if image.mode == "F":
        raise DataError("its pixels are floats: save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise DataError("its pixels have 32 bits: save it with 8 or 16 bits")
    return images.fromarray((pixels >> 8).astype(np.uint8))


class ImageFiles:
    """The images of files as one array, uint8 ``[n, height, width, channels]``, of which only what is indexed is decoded."""

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[str], form: ImageForm) -> None:
        self.paths, self.form = paths, form

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        return (len(self.paths), *self.form.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """Return the images of these indices.

        Raises:
            DataError: a file cannot be decoded; the message names the file.
        """
        return np.stack([self._decoded(self.paths[i]) for i in chosen])

    def _decoded(self, path: str) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(path) as image:
                return self.form.of(image)
        except Exception as error:  # whatever a decoder raises on a damaged file
            raise _damaged(path, error) from error

    def check(self) -> None:
        """Open every file and look at its header and its end; decode those that look cut.

        Raises:
            DataError: a file is no image, or not a whole one.
        """
        from PIL import Image

        for path in self.paths:
            try:
                with Image.open(path) as image:
                    whole = _ends_well(path, image.format or "")
            except Exception as error:  # whatever a decoder raises on a damaged file
                raise _damaged(path, error) from error
            if not whole:
                self._decoded(path)

    def fingerprint(self) -> bytes:
        """Return what tells these files from others without reading them: names, sizes and times of change."""
        found = ((path, os.stat(path)) for path in self.paths)
        return repr([(path, s.st_size, s.st_mtime_ns) for path, s in found] + [self.form]).encode()


def _ends_well(path: str, kind: str) -> bool:
    """Return whether a file ends as whole ones of its kind do; True of kinds that have no mark there."""
    end, after = _ENDS.get(kind, (b"", 0))
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(end) - after))
        return file.read(len(end)) == end


def _damaged(path: str, error: Exception) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path} cannot be read: {error.strerror}")
    return DataError(f"{path} is not an image, or not a whole one: {reason_of(error)}; replace it or delete it")


@dataclass(frozen=True)
class Labelled:
    """The image files of a folder, and the class number of each."""

    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]

    def part(self, chosen: np.ndarray) -> Labelled:
        """Return those of these indices."""
        return Labelled([self.paths[i] for i in chosen], self.labels[chosen], self.classes)


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the names of a folder's folders, sorted: the classes."""
    return tuple(p.name for p in _visible(root) if p.is_dir())


def labelled_files(root: Path, classes: tuple[str, ...] | None = None) -> Labelled:
    """Return the image files of ``<root>/<class>/*``.

    Args:
        root: the folder.
        classes: those of the training data, whose numbers the labels are; of these a folder may lack some. None: the folder's
            own, of which none may be empty.

    Raises:
        DataError: there are no classes, or others than ``classes``, or a class without images.
    """
    found = class_folders(root)
    if not found:
        raise DataError(f"{root} has no classes: an image folder holds train/<class>/ and test/<class>/")
    known = found if classes is None else classes
    if other := [name for name in found if name not in known]:
        raise DataError(f"{root} has the class '{other[0]}', which the training data lack: they have {list(known[:5])}")
    paths: list[str] = []
    counts = []
    for name in known:
        files = _image_files(root / name) if name in found else []
        if classes is None and not files:
            raise DataError(f"{root / name} has no images: add some, or delete the folder")
        paths += files
        counts.append(len(files))
    if not paths:
        raise DataError(f"{root} has no images")
    return Labelled(paths, np.repeat(np.arange(len(known), dtype=np.int64), counts), known)


def _image_files(folder: Path) -> list[str]:
    files = [p for p in _visible(folder) if p.is_file()]
    other = [p.name for p in files if p.suffix.lower() not in SUFFIXES]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        log.warning("%s: %s%s: no images by their names, and ignored", folder, other[0], more)
    return [str(p) for p in files if p.suffix.lower() in SUFFIXES]


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without the files and folders that a system hides there (.DS_Store, .git)."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))

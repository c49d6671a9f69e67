"""TensorRT's calibration cache: a text that gives each tensor of a network its scale.

The first line names the version of TensorRT and the algorithm. Each further one is a tensor's name, a colon, and its scale as
the hexadecimal digits of a big-endian float32: 1/127 of the largest magnitude that the tensor's int8 values stand for.
``trtexec --calib=FILE`` and ``IInt8Calibrator.readCalibrationCache`` take the file. TensorRT refuses the cache of another
algorithm, and from version 10 that of another version.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.errors import DataError, ExportError
from qat.system.atomic_files import write_atomically

_HEADER = re.compile(r"TRT-(\w+)-(\w+)")
ALGORITHM = "EntropyCalibration2"


@dataclass(frozen=True)
class CalibrationCache:
    """What a calibration cache says.

    Attributes:
        scales: by tensor name; float32, positive, or 0 of a tensor that is 0 always.
        version: of TensorRT, as digits without dots: ``8601`` for 8.6.1, ``100300`` for 10.3.0.
        algorithm: of the calibrator that wrote it.
    """

    scales: Mapping[str, float]
    version: str = "8601"
    algorithm: str = ALGORITHM


def to_text(cache: CalibrationCache) -> str:
    """Return the text of a cache.

    Raises:
        ExportError: a scale is negative or no number, or a name holds a line break.
    """
    lines = [f"TRT-{cache.version}-{cache.algorithm}"]
    for name, scale in cache.scales.items():
        if not np.isfinite(scale) or scale < 0:
            raise ExportError(f"calibration cache: the scale of '{name}' is {scale}; a scale is a finite number above 0")
        if "\n" in name or "\r" in name:
            raise ExportError(f"calibration cache: the tensor name {name!r} holds a line break: rename it in the .onnx")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def from_text(text: str, where: str) -> CalibrationCache:
    """Read a cache.

    Args:
        text: of the cache.
        where: its name in messages.

    Raises:
        DataError: the text is no calibration cache, or a line of it is damaged.
    """
    lines = text.splitlines()
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise DataError(f"{where}: the first line is no 'TRT-<version>-<algorithm>': this is not TensorRT's calibration cache")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, digits = line.rpartition(":")
        digits = digits.strip()
        if not colon or not re.fullmatch(r"[0-9a-fA-F]{1,8}", digits):
            raise DataError(f"{where}, line {number}: '{line[:60]}' is not 'tensor: hexadecimal float32'")
        (scale,) = struct.unpack(">f", bytes.fromhex(digits.zfill(8)))
        if not np.isfinite(scale) or scale < 0:
            raise DataError(f"{where}, line {number}: the scale of '{name}' is {scale}: calibrate again")
        scales[name] = scale
    return CalibrationCache(scales, header[1], header[2])


def write_cache(cache: CalibrationCache, path: str | Path, overwrite: bool = False) -> None:
    """Write a cache to a file.

    Raises:
        ExportError: as :func:`to_text` says, or the file exists and may not be replaced, or cannot be written.
    """
    write_atomically(path, to_text(cache), overwrite)


def read_cache(path: str | Path) -> CalibrationCache:
    """Read the cache in a file.

    Raises:
        DataError: as :func:`from_text` says, or the file is missing or is no text.
    """
    try:
        return from_text(Path(path).read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the calibration cache cannot be read: {error}") from error

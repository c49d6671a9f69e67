"""The file formats of artifacts, each with its runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qat.errors import QatError

from .session import Session


class OpenModel(Protocol):
    """Opens a file, or its bytes, in a runtime. ``kernels`` is :attr:`qat.program.program.Program.kernels`, empty for any."""

    def __call__(self, model: Path | bytes, *, threads: int = 1, kernels: str = "") -> Session:
        """Return the session."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: also that of the exporter's folder.
        suffix: of its files, with the dot.
        extra: of the distribution, which installs the packages that write and run such files.
        layout: of the images that the kernels of its runtime read, ``NCHW`` or ``NHWC``.
        open: opens a model in its runtime.
    """

    name: str
    suffix: str
    extra: str
    layout: str
    open: OpenModel


def _open_onnx(model: Path | bytes, *, threads: int = 1, kernels: str = "") -> Session:
    from .onnxruntime import OnnxSession

    return OnnxSession(model, threads=threads)


def _open_tflite(model: Path | bytes, *, threads: int = 1, kernels: str = "") -> Session:
    from .litert import LiteRTSession

    return LiteRTSession(model, threads=threads, kernels=kernels or "xnnpack")


ONNX = Format("onnx", ".onnx", "onnx", "NCHW", _open_onnx)
TFLITE = Format("tflite", ".tflite", "litert", "NHWC", _open_tflite)
#: Every format by its suffix.
FORMATS = {f.suffix: f for f in (ONNX, TFLITE)}


def format_of(path: Path, error: type[QatError] = QatError) -> Format:
    """Return the format of a file, by its suffix.

    Raises:
        QatError: there is no format with that suffix; ``error`` is the class to raise.
    """
    if path.suffix not in FORMATS:
        raise error(f"{path}: an artifact ends in {' or '.join(FORMATS)}, not '{path.suffix}'")
    return FORMATS[path.suffix]

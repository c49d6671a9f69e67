"""The runtimes that artifacts are deployed in: one session face for ONNX Runtime and LiteRT."""

from __future__ import annotations

from pathlib import Path

from qat.errors import MissingDependencyError, QatError

from .formats import FORMATS, ONNX, TFLITE, Format, format_of
from .session import Session
from .tensors import LIMITS, WEIGHT_TYPES, TensorInfo, Weight, check_shapes

__all__ = [
    "FORMATS",
    "LIMITS",
    "ONNX",
    "TFLITE",
    "WEIGHT_TYPES",
    "Format",
    "Session",
    "TensorInfo",
    "Weight",
    "check_shapes",
    "format_of",
    "open_session",
]


def open_session(path: str | Path, *, threads: int = 1) -> Session:
    """Open an artifact in its runtime, with all optimizations and the default delegate.

    Args:
        path: a ``.onnx`` or ``.tflite`` file.
        threads: that the runtime computes with.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
        MissingDependencyError: the runtime is not installed.
    """
    path = Path(path)
    file_format = format_of(path)
    if not path.is_file():
        raise QatError(f"no such artifact: {path}")
    try:
        return file_format.open(path, threads=threads)
    except ImportError as error:
        message = f"running {path} needs {error.name}: pip install 'qat-toolkit[{file_format.extra}]'"
        raise MissingDependencyError(message) from error

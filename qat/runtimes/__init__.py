"""The runtimes that artifacts are deployed in: one session face for ONNX Runtime and LiteRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.errors import DataError, MissingDependencyError, QatError

#: Of the integers that a quantized tensor may hold, by its type.
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an artifact. None in ``shape`` is a dynamic size, ``scale`` is None for a float tensor."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0


def open_session(path: str | Path, *, threads: int = 1) -> Any:
    """Open an artifact in its runtime, optimizations on, default delegate on.

    The session takes and gives float32 arrays, any batch size: ``run(*arrays) -> tuple of arrays``; ``inputs`` and
    ``outputs`` are TensorInfos, ``invoke(*stored(*arrays))`` is the runtime's part of it alone, ``ops()`` counts the operators
    that really run.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
        MissingDependencyError: the runtime is not installed.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".tflite"):
        raise QatError(f"{path}: an artifact is a .onnx or a .tflite file")
    if not path.is_file():
        raise QatError(f"no such artifact: {path}")
    try:
        if path.suffix == ".onnx":
            from .onnxruntime import OnnxSession

            return OnnxSession(path, threads=threads)
        from .litert import LiteRTSession

        return LiteRTSession(path, threads=threads)
    except ImportError as error:
        extra = "onnx" if path.suffix == ".onnx" else "litert"
        raise MissingDependencyError(f"running {path} needs {error.name}: pip install 'qat-toolkit[{extra}]'") from error


def check_shapes(arrays: tuple[Any, ...], inputs: tuple[TensorInfo, ...]) -> None:
    """Raise DataError unless the arrays fit an artifact's inputs. The first size, the batch, is free."""
    if len(arrays) != len(inputs):
        raise DataError(f"the artifact takes {len(inputs)} inputs, not {len(arrays)}")
    for array, info in zip(arrays, inputs, strict=True):
        want, have = info.shape, tuple(array.shape)
        if len(have) != len(want) or any(w not in (None, h) for w, h in zip(want[1:], have[1:], strict=True)):
            shown = "x".join(["batch", *("?" if d is None else str(d) for d in want[1:])])
            raise DataError(f"input '{info.name}' of the artifact is {shown}, the data is {'x'.join(map(str, have))}")

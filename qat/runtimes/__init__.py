"""The runtimes that artifacts are deployed in: one session face for ONNX Runtime and LiteRT."""

from __future__ import annotations

from pathlib import Path

from qat.errors import MissingDependencyError, QatError

from .session import LIMITS, Session, TensorInfo, check_shapes

__all__ = ["LIMITS", "Session", "TensorInfo", "check_shapes", "open_session"]


def open_session(path: str | Path, *, threads: int = 1) -> Session:
    """Open an artifact in its runtime, optimizations on, default delegate on.

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

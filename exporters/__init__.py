"""Exporters: an integer program becomes an artifact, and is proved equal to the model it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qat.encoding import Encoding
from qat.errors import ExportError, MissingDependencyError, RuntimeMismatchError
from qat.exporters.artifact import Artifact
from qat.exporters.verify import Locate, Parity, Predict, verify
from qat.files import write_atomically
from qat.program import Program

__all__ = ["Artifact", "Parity", "export"]

_SUFFIXES = (".onnx", ".tflite")


def export(
    program: Program,
    path: Path,
    *,
    framework: str,
    io_dtype: str,
    overwrite: bool,
    predict: Predict,
    locate: Locate,
    data: Iterable[Any] | None,
) -> Artifact:
    """Write a program to ``path`` and its encodings beside it, read the scales back, and verify it on ``data``.

    Raises:
        ExportError: the path has another suffix, exists, or cannot be written.
        RuntimeMismatchError: a scale read back differs from the trained one in a bit.
    """
    if path.suffix not in _SUFFIXES:
        raise ExportError(f"{path}: the file must end in {' or '.join(_SUFFIXES)}")
    if io_dtype not in ("int8", "uint8", "float32"):
        raise ExportError(f"io_dtype '{io_dtype}' is none of int8, uint8, float32")
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists already: pass overwrite=True (--overwrite) or another path")
    write = _writer(path.suffix, io_dtype)
    raw = write(program, ())
    encodings = _read_back(program, raw, path)
    sidecar = path.with_name(path.name + ".encodings.json")
    document = {"recipe": program.recipe, "target": program.target, "kernels": program.kernels, "encodings": encodings}
    write_atomically(sidecar, json.dumps(document, indent=1) + "\n", overwrite=True)
    write_atomically(path, raw, overwrite=overwrite)

    def open_artifact(extra_outputs: tuple[str, ...]) -> Any:
        return _session(path.suffix, write(program, extra_outputs) if extra_outputs else path, program.kernels)

    parity = None if data is None else verify(open_artifact, program, predict, locate, data)
    return Artifact(path, framework, program.recipe, program.target, len(raw), encodings, parity)


def _format(suffix: str) -> ModuleType:
    try:
        if suffix == ".onnx":
            from qat.exporters import onnx as module
        else:
            from qat.exporters import tflite as module
    except ImportError as error:
        extra = "onnx" if suffix == ".onnx" else "litert"
        raise MissingDependencyError(f"{suffix} needs {error.name}: pip install 'qat-toolkit[{extra}]'") from error
    return module


def _writer(suffix: str, io_dtype: str) -> Callable[[Program, tuple[str, ...]], bytes]:
    module = _format(suffix)
    if suffix == ".onnx":
        return lambda program, extra: module.build(program, extra).SerializeToString()
    return lambda program, extra: module.build(program, io_dtype, extra)


def _session(suffix: str, model: Path | bytes, kernels: str) -> Any:
    if suffix == ".onnx":
        from qat.runtimes.onnxruntime import OnnxSession

        return OnnxSession(model)
    from qat.runtimes.litert import LiteRTSession

    return LiteRTSession(model, kernels=kernels)


def _read_back(program: Program, raw: bytes, path: Path) -> dict[str, dict[str, object]]:
    """Return the artifact's encodings after comparing each scale with the trained one, in every bit."""
    module = _format(path.suffix)
    if path.suffix == ".onnx":
        import onnx

        found: dict[str, Encoding] = module.read_encodings(onnx.load_from_string(raw))
    else:
        found = module.read_encodings(raw)
    trained = {v.name: v.encoding for v in program.values.values() if v.encoding is not None}
    trained |= {f"{s.name}.weight": s.weight_encoding for s in program.instructions if s.weight_encoding is not None}
    for name, encoding in trained.items():
        if name in found and not (
            np.array_equal(np.ravel(found[name].scale), np.ravel(encoding.scale).astype(np.float32))
            and found[name].zero_point == encoding.zero_point
        ):
            raise RuntimeMismatchError(f"{path}: the scale of '{name}' is {found[name].scale}, trained was {encoding.scale}")
    return program.encodings()

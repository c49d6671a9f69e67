"""Writing an artifact: a program, or what another converter made, into a file that is proved equal to its model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.errors import ExportError, MissingDependencyError, RuntimeMismatchError, nearest
from qat.exporters.onnx.conv_transpose import without_transposed
from qat.graph.kinds import FUNCTIONS
from qat.program.layout import to_layout
from qat.program.program import Instruction, Program, Value
from qat.runtimes import LIMITS
from qat.runtimes.model_file import Parity
from qat.system.atomic_files import refuse_existing, write_atomically

from .artifact import Artifact
from .verify import Locate, Predict, verify

log = logging.getLogger("qat")

#: The formats, and the extra that brings what writes and runs each.
_EXTRAS = {".onnx": "onnx", ".tflite": "litert"}
#: How the formats' kernels want images.
_LAYOUTS = {".onnx": "NCHW", ".tflite": "NHWC"}
_IO_DTYPES = ("int8", "uint8", "float32")


def export_lowered(
    program: Program,
    path: Path,
    *,
    framework: str,
    io_dtype: str,
    overwrite: bool,
    predict: Predict,
    locate: Locate | None,
    data: Iterable[Any] | None,
    layout: str | None = None,
) -> Artifact:
    """Write a program to ``path``, its encodings beside it, and verify the file on ``data`` in its runtime.

    Raises:
        ExportError, RuntimeMismatchError: as :func:`export_program` and :func:`qat.exporters.verify.verify` say.
    """
    _check(path, io_dtype, overwrite)
    program = _in_format(to_layout(program, _LAYOUTS[path.suffix], layout), path)
    size = export_program(program, path, io_dtype=io_dtype, overwrite=overwrite)

    def open_artifact(extra_outputs: tuple[str, ...]) -> Any:
        model = _serialise(program, path, io_dtype, extra_outputs) if extra_outputs else path
        return _session(path, model, program.kernels)

    parity = None if data is None else verify(open_artifact, program, predict, locate, data)
    _report_distance(path, parity)
    axes = tuple(program.values[name].axes for name in program.inputs)
    return Artifact(
        name=path.stem, kind="qat", path=path, bytes=size, framework=framework, tool="qat", recipe=program.recipe, parity=parity,
        axes=axes, target=program.target, encodings=program.encodings(),
    )  # fmt: skip


def export_program(program: Program, path: Path, *, io_dtype: str = "int8", overwrite: bool = False) -> int:
    """Write a program to ``path`` and its encodings beside it as JSON; returns the artifact's size in bytes.

    The encodings are read back from the bytes before anything is written.

    Args:
        program: what an adapter's ``lower`` returned, in the format's layout (:func:`qat.program.layout.to_layout`).
        path: ending in ``.onnx`` or ``.tflite``.
        io_dtype: of a ``.tflite``'s inputs and outputs; an ``.onnx`` has float32.
        overwrite: whether existing files may be replaced.

    Raises:
        ExportError: the path has another suffix, exists or cannot be written, or the format cannot express the program.
        RuntimeMismatchError: an encoding in the artifact differs from the trained one in a bit, or is not there.
    """
    _check(path, io_dtype, overwrite)
    program = _in_format(program, path)
    raw = _serialise(program, path, io_dtype, ())
    _compare_encodings(program, _read_encodings(path, raw), path)
    document = {"recipe": program.recipe, "target": program.target, "kernels": program.kernels}
    _write(path, raw, document | {"encodings": program.encodings()}, overwrite)
    return len(raw)


def export_converted(
    convert: Callable[[], bytes], path: Path, *, io_dtype: str, overwrite: bool, predict: Predict, data: Iterable[Any] | None
) -> Artifact:
    """Write a ``.tflite`` that another converter made, and compare the file on ``data`` in its runtime with the model.

    Raises:
        ExportError: as :func:`export_program` says.
    """
    _check(path, io_dtype, overwrite)
    raw = convert()
    found = {name: encoding.to_dict() for name, encoding in _read_encodings(path, raw).items()}
    _write(path, raw, {"recipe": "static_wi8_ai8", "target": "litert", "encodings": found}, overwrite)
    parity = None
    if data is not None:
        session = _session(path, path, "xnnpack")
        parity = verify(lambda extra: session, _border(session), predict, None, data)
    _report_distance(path, parity)
    return Artifact(
        name=path.stem, kind="qat", path=path, bytes=len(raw), framework="tf_keras", tool="tfmot", recipe="static_wi8_ai8",
        parity=parity, target="litert", encodings=found,
    )  # fmt: skip


def _report_distance(path: Path, parity: Parity | None) -> None:
    """Warn of an artifact whose outputs are, on average, more than a step away from the model's."""
    if parity is not None and parity.mean_lsb > 1:
        log.warning(
            "%s is not the model: its outputs differ by %.1f steps on average (%s); do not ship it", path, parity.mean_lsb,
            parity.first_difference,
        )  # fmt: skip


def _border(session: Any) -> Program:
    """Return the program of which nothing is known but its outputs' scales."""
    values: dict[str, Value] = {info.name: Value(info.name, info.shape) for info in session.inputs}
    steps = []
    for info in session.outputs:
        real, grid = info.name, f"{info.name}_quantized"
        values[real] = Value(real, info.shape)
        if info.scale is not None:
            encoding = Encoding(np.asarray(info.scale, np.float32), info.zero_point, *LIMITS[info.dtype])
            values[grid] = Value(grid, info.shape, encoding)
            steps.append(Instruction(f"dequantize_{real}", "dequantize", (grid,), (real,)))
    inputs, outputs = (tuple(i.name for i in infos) for infos in (session.inputs, session.outputs))
    return Program("converted", "NHWC", "xnnpack", "litert", "static_wi8_ai8", inputs, outputs, values, tuple(steps))


def read_encodings(path: Path) -> dict[str, Encoding]:
    """Return the encodings found in an artifact on disk, by tensor name.

    Raises:
        ExportError: the file has another suffix.
    """
    if path.suffix not in _EXTRAS:
        raise ExportError(f"{path}: an artifact ends in {' or '.join(_EXTRAS)}, not '{path.suffix}'")
    return _read_encodings(path, path.read_bytes())


def _check(path: Path, io_dtype: str, overwrite: bool) -> None:
    """Refuse what cannot be written before the work, which may take a while."""
    if path.suffix not in _EXTRAS:
        raise ExportError(f"{path}: the file must end in {' or '.join(_EXTRAS)}, not '{path.suffix}'")
    if io_dtype not in _IO_DTYPES:
        raise ExportError(f"io_dtype '{io_dtype}' is none of {', '.join(_IO_DTYPES)}{nearest(io_dtype, _IO_DTYPES)}")
    if not overwrite:
        # Both files, so that neither is written without the other.
        refuse_existing(path, encodings_path(path))


def encodings_path(path: Path) -> Path:
    """Return where the encodings of an artifact lie."""
    return path.with_name(path.name + ".encodings.json")


def _write(path: Path, raw: bytes, document: dict[str, Any], overwrite: bool) -> None:
    # The artifact last: where it is, what belongs to it is.
    write_atomically(encodings_path(path), json.dumps(document, indent=1) + "\n", overwrite=overwrite)
    write_atomically(path, raw, overwrite=overwrite)


def _format(path: Path) -> ModuleType:
    try:
        if path.suffix == ".onnx":
            from .onnx import model as for_onnx

            return for_onnx
        from .tflite import model as for_tflite

        return for_tflite
    except ImportError as error:
        raise MissingDependencyError(
            f"writing {path.suffix} needs {error.name}: pip install 'qat-toolkit[{_EXTRAS[path.suffix]}]'"
        ) from error


def _in_format(program: Program, path: Path) -> Program:
    """Return a program in the operators that the format's runtime has kernels for."""
    return without_transposed(program) if path.suffix == ".onnx" else program


def _serialise(program: Program, path: Path, io_dtype: str, extra_outputs: tuple[str, ...]) -> bytes:
    module = _format(path)
    if path.suffix == ".onnx":
        raw: bytes = module.build(program, extra_outputs).SerializeToString()
    else:
        raw = module.build(program, io_dtype, extra_outputs)
    return raw


def _session(path: Path, model: Path | bytes, kernels: str) -> Any:
    if path.suffix == ".onnx":
        from qat.runtimes.onnxruntime import OnnxSession

        return OnnxSession(model)
    from qat.runtimes.litert import LiteRTSession

    return LiteRTSession(model, kernels=kernels)


def _read_encodings(path: Path, raw: bytes) -> dict[str, Encoding]:
    module = _format(path)
    if path.suffix == ".onnx":
        import onnx

        found: dict[str, Encoding] = module.read_encodings(onnx.load_from_string(raw))
    else:
        found = module.read_encodings(raw)
    return found


def _compare_encodings(program: Program, found: dict[str, Encoding], path: Path) -> None:
    """Compare the artifact's scales and zero points with the trained ones, in every bit."""
    trained = {v.name: v.encoding for v in program.values.values() if v.encoding is not None}
    trained |= {f"{s.name}.weight": s.weight_encoding for s in program.instructions if s.weight_encoding is not None}
    # Integers that are only moved or looked up pass between no QuantizeLinear and DequantizeLinear.
    unmarked = {name for s in program.instructions if s.kind == "move" or s.kind in FUNCTIONS for name in s.outputs}
    for name, encoding in trained.items():
        if name not in found and name in unmarked:
            continue
        if name not in found:
            raise RuntimeMismatchError(f"{path}: the artifact holds no encoding of '{name}'; nothing was written")
        have, want = np.ravel(found[name].scale), np.ravel(np.asarray(encoding.scale, np.float32))
        if have.tobytes() != want.tobytes() or found[name].zero_point != encoding.zero_point:
            raise RuntimeMismatchError(
                f"{path}: the artifact has '{name}' with scale {have} and zero point {found[name].zero_point}, "
                f"trained were {want} and {encoding.zero_point}; nothing was written"
            )

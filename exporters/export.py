"""Writing an artifact: a program, or the file of another converter, that is verified against its model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.errors import ExportError, RuntimeMismatchError, nearest
from qat.graph.kinds import FUNCTIONS, STEPS
from qat.program.layout import to_layout
from qat.program.program import Instruction, Program, Value
from qat.program.shared_weights import share_weights
from qat.runtimes import LIMITS, Format, Session, format_of
from qat.runtimes.model_file import Parity
from qat.system.atomic_files import refuse_existing, write_together
from qat.system.machine import usable_threads

from .artifact import Artifact
from .divergence import refuse_diverged
from .exporter import exporter_of
from .loading import loaded
from .metadata import Metadata, check
from .verify import Batch, Locate, Predict, verify

log = logging.getLogger("qat")

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
    data: Iterable[Batch] | None,
    layout: str | None = None,
    metadata: Metadata | None = None,
) -> Artifact:
    """Write a program to ``path`` and its encodings beside it, and verify the file on ``data`` in its runtime.

    Args:
        program: as an adapter's ``lower`` returned it.
        path: ending in ``.onnx`` or ``.tflite``.
        framework: that the model comes from.
        io_dtype: of a ``.tflite``'s inputs and outputs; an ``.onnx`` has float32.
        overwrite: whether existing files may be replaced.
        predict: gives the prepared model's outputs.
        locate: gives the prepared model's values on the grid; None where the adapter cannot.
        data: batches of inputs; None skips the verification.
        layout: of the images that the artifact takes and returns; None: as the model does.
        metadata: what the file says of itself.

    Raises:
        ExportError, RuntimeMismatchError: as :func:`export_program` and :func:`qat.exporters.verify.verify` say.
    """
    file_format = _check(path, io_dtype, overwrite)
    made = _made(to_layout(program, file_format.layout, layout), path, file_format, io_dtype, metadata)

    def open_artifact(extra_outputs: tuple[str, ...]) -> Session:
        if not extra_outputs:
            return made.session
        raw = exporter_of(file_format).write(made.program, io_dtype, extra_outputs)
        return file_format.open(raw, threads=usable_threads(), kernels=program.kernels)

    parity = None if data is None else verify(open_artifact, made.program, predict, locate, data)
    program = made.program
    encodings = program.encodings()
    _write_files(path, made.raw, _document(program, encodings), overwrite)
    _report_distance(path, parity)
    axes = tuple(program.values[name].axes for name in program.inputs)
    return Artifact(
        name=path.stem, kind="qat", path=path, bytes=len(made.raw), framework=framework, tool="qat", recipe=program.recipe,
        parity=parity, axes=axes, target=program.target, encodings=encodings,
    )  # fmt: skip


def export_program(
    program: Program, path: Path, *, io_dtype: str = "int8", overwrite: bool = False, metadata: Metadata | None = None
) -> int:
    """Write a program to ``path`` and its encodings beside it as JSON; return the artifact's size in bytes.

    The encodings are read back from the bytes before a file is written.

    Args:
        program: in the format's layout (:func:`qat.program.layout.to_layout`).
        path: ending in ``.onnx`` or ``.tflite``.
        io_dtype: of a ``.tflite``'s inputs and outputs; an ``.onnx`` has float32.
        overwrite: whether existing files may be replaced.
        metadata: what the file says of itself.

    Raises:
        ConfigError: the metadata's own values are wrong.
        ExportError: the path has another suffix, exists or cannot be written, the format cannot express the program, or the
            metadata do not fit it.
        RuntimeMismatchError: an encoding is missing in the artifact, or differs from the trained one in a bit.
    """
    made = _made(program, path, _check(path, io_dtype, overwrite), io_dtype, metadata)
    _write_files(path, made.raw, _document(made.program, made.program.encodings()), overwrite)
    return len(made.raw)


@dataclass(frozen=True)
class _Made:
    """The bytes of a file, the program in the format's operators, and the session in which the file was run."""

    raw: bytes
    program: Program
    session: Session


def _made(program: Program, path: Path, file_format: Format, io_dtype: str, metadata: Metadata | None) -> _Made:
    """Return a file that holds the program's encodings, and that its runtime takes."""
    exporter = exporter_of(file_format)
    refuse_diverged(program)
    if metadata is not None:
        check(metadata, program, io_dtype)
    program = share_weights(exporter.legalize(program))
    raw = exporter.write(program, io_dtype)
    _compare_encodings(program, exporter.read_encodings(raw), path)
    raw = raw if metadata is None else exporter.describe(raw, metadata)
    return _Made(raw, program, loaded(raw, path, file_format, program))


def _document(program: Program, encodings: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """Return what stands beside an artifact."""
    scopes = {name: scope for name, scope in program.scopes.items() if name in encodings}
    said = {"recipe": program.recipe, "target": program.target, "kernels": program.kernels}
    return said | {"encodings": encodings, "scopes": scopes}


def export_converted(
    convert: Callable[[], bytes],
    path: Path,
    *,
    io_dtype: str,
    overwrite: bool,
    predict: Predict,
    data: Iterable[Batch] | None,
    metadata: Metadata | None = None,
) -> Artifact:
    """Write a ``.tflite`` that another converter made, and compare the file on ``data`` in its runtime with the model.

    Raises:
        ExportError: as :func:`export_program` says.
    """
    file_format = _check(path, io_dtype, overwrite)
    raw = convert()
    session = loaded(raw, path, file_format, None)
    if metadata is not None:
        check(metadata, _program_of_outputs(session), io_dtype)
        raw = exporter_of(file_format).describe(raw, metadata)
    found = {name: encoding.to_dict() for name, encoding in exporter_of(file_format).read_encodings(raw).items()}
    parity = None
    if data is not None:
        parity = verify(lambda extra: session, _program_of_outputs(session), predict, None, data)
    _write_files(path, raw, {"recipe": "static_wi8_ai8", "target": "litert", "encodings": found}, overwrite)
    _report_distance(path, parity)
    return Artifact(
        name=path.stem, kind="qat", path=path, bytes=len(raw), framework="tf_keras", tool="tfmot", recipe="static_wi8_ai8",
        parity=parity, target="litert", encodings=found,
    )  # fmt: skip


def _report_distance(path: Path, parity: Parity | None) -> None:
    """Warn of an artifact whose outputs differ from the model's by more than one unit of their scale on average."""
    if parity is not None and parity.mean_lsb > 1:
        log.warning(
            "%s is not the model: its outputs differ by %.1f steps on average (%s); do not ship it", path, parity.mean_lsb,
            parity.first_difference,
        )  # fmt: skip


def _program_of_outputs(session: Session) -> Program:
    """Return a program that holds only the scales of a file's outputs, for a file whose operators are not known."""
    values: dict[str, Value] = {info.name: Value(info.name, info.shape) for info in session.inputs}
    instructions = []
    for info in session.outputs:
        real, grid = info.name, f"{info.name}_quantized"
        values[real] = Value(real, info.shape)
        if info.scale is not None:
            encoding = Encoding(np.asarray(info.scale, np.float32), info.zero_point, *LIMITS[info.dtype])
            values[grid] = Value(grid, info.shape, encoding)
            instructions.append(Instruction(f"dequantize_{real}", "dequantize", (grid,), (real,)))
    inputs, outputs = (tuple(info.name for info in infos) for infos in (session.inputs, session.outputs))
    return Program("converted", "NHWC", "xnnpack", "litert", "static_wi8_ai8", inputs, outputs, values, tuple(instructions))


def encodings_path(path: Path) -> Path:
    """Return the path of the encodings that lie beside an artifact."""
    return path.with_name(path.name + ".encodings.json")


def _check(path: Path, io_dtype: str, overwrite: bool) -> Format:
    """Return the format of a path; refuse arguments that cannot work before the export, which may take a while."""
    file_format = format_of(path, ExportError)
    if io_dtype not in _IO_DTYPES:
        raise ExportError(f"io_dtype '{io_dtype}' is none of {', '.join(_IO_DTYPES)}{nearest(io_dtype, _IO_DTYPES)}")
    if not overwrite:
        # Both files, so that neither is written without the other.
        refuse_existing(path, encodings_path(path))
    return file_format


def _write_files(path: Path, raw: bytes, document: Mapping[str, Any], overwrite: bool) -> None:
    # The artifact comes last: an artifact on disk then always has its encodings beside it.
    write_together({encodings_path(path): _one_tensor_a_line(document), path: raw}, overwrite)


def _one_tensor_a_line(document: Mapping[str, Any]) -> str:
    """Return a document as JSON with an entry of each table on a line; ``json`` alone indents each number, and slowly."""

    def lines(entries: Mapping[str, Any], indent: str) -> str:
        written = (f"{indent} {json.dumps(name)}: {text(value, indent)}" for name, value in entries.items())
        return "{\n" + ",\n".join(written) + f"\n{indent}}}"

    def text(value: Any, indent: str) -> str:
        return lines(value, " ") if isinstance(value, Mapping) and value and not indent else json.dumps(value)

    return lines(document, "") + "\n"


def _compare_encodings(program: Program, found: Mapping[str, Encoding], path: Path) -> None:
    """Compare the artifact's scales and zero points with the trained ones, in every bit."""
    trained = {v.name: v.encoding for v in program.values.values() if v.encoding is not None}
    trained |= {i.weight_tensor: i.weight_encoding for i in program.instructions if i.weight_encoding is not None}
    # In an .onnx, integers that are moved, averaged, looked up or compared pass between no QuantizeLinear and DequantizeLinear,
    # and what an exporter puts in itself (depth_to_space, a product that changes no integer) moves them too.
    unmarked: set[str] = set()
    for i in program.instructions:
        step = STEPS.get(i.kind)
        looked_up = step is None or step.indices or i.keeps_framework or i.kind in (*FUNCTIONS, "avg_pool2d")
        if looked_up or (step is not None and step.carries and unmarked.issuperset(i.inputs)):
            unmarked.update(i.outputs)
    unmarked |= {i.inputs[1] for i in program.instructions if i.kind == "mask"}
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

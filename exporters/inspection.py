"""The contents of an artifact and what runs each operator: for ``qat inspect``, and for anyone who doubts a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qat.arithmetic.encoding import Encoding
from qat.runtimes import TensorInfo, Weight, format_of, open_session
from qat.runtimes.model_file import FileKind

from .export import encodings_path
from .exporter import exporter_of
from .metadata import Metadata

#: The operators that make float weights of stored ones.
_RESTORES = {"DEQUANTIZE", "DequantizeLinear", "MatMulNBits"}


@dataclass(frozen=True)
class Inspection:
    """An artifact.

    Attributes:
        inputs: with their types and, where they are integers, their scales.
        outputs: likewise.
        runs: the number of operators that really run, by the library that runs them, then by name.
        weights: every weight, in the file's order.
        activations: the encodings of the other tensors, by name.
        metadata: what the file says of itself; None where it says nothing.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    runs: Mapping[str, Counter[str]]
    weights: tuple[Weight, ...]
    activations: Mapping[str, Encoding]
    metadata: Metadata | None = None

    def bits(self) -> Counter[str]:
        """Count the weights by the type that they are stored in."""
        return Counter(weight.dtype for weight in self.weights)

    def says(self) -> list[str]:
        """Return the metadata in lines."""
        m = self.metadata
        if m is None:
            return []
        texts = {"name": m.name, "description": m.description, "version": m.version, "author": m.author, "license": m.license}
        if m.labels:
            texts["labels"] = f"{len(m.labels)}: {', '.join(m.labels[:10])}{', ...' if len(m.labels) > 10 else ''}"
        if m.normalization is not None:
            mean, std = (", ".join(f"{x:.6g}" for x in numbers) for numbers in m.normalization)
            texts["pixels"] = f"(0 to 255 - {mean}) / {std}"
        return [f"{key}: {text}" for key, text in texts.items() if text]


def inspect(path: Path) -> Inspection:
    """Open an artifact, of this toolkit or another, in its runtime and read its contents.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
    """
    session = open_session(path)
    exporter, raw = exporter_of(format_of(path)), path.read_bytes()
    weights = tuple(exporter.read_weights(raw))
    constants = {weight.name for weight in weights}
    encodings = exporter.read_encodings(raw)
    activations = {n: e for n, e in encodings.items() if n not in constants and not n.endswith(".weight")}
    return Inspection(session.inputs, session.outputs, session.runs(), weights, activations, exporter.read_metadata(raw))


def kind_of(path: Path) -> tuple[FileKind, str]:
    """Return the kind of an artifact in a comparison (``float``, ``ptq`` or ``qat``), and the recipe of a PTQ.

    The recipe is ``static``, ``dynamic``, ``weight only`` or ``float16``: dynamic activations are float tensors that an operator
    quantizes as it runs; beside weights that are stored alone stands an operator that makes float ones of them.

    An artifact of this toolkit has its encodings beside it. The kind of another one follows from the types of its weights.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
    """
    if encodings_path(path).is_file():
        return "qat", ""
    found = inspect(path)
    types = set(found.bits())
    if types <= {"float32", "float64"}:
        return "float", ""
    if "float16" in types:
        return "ptq", "float16"
    if found.activations:
        return "ptq", "static"
    return "ptq", "weight only" if any(_RESTORES & set(counts) for counts in found.runs.values()) else "dynamic"


def layout_of(info: TensorInfo) -> str:
    """Return the likely layout of an image, whose channels are the smaller of the first and the last axis. Empty for no image."""
    if len(info.shape) != 4 or None in info.shape[1:]:
        return ""
    first, last = info.shape[1] or 0, info.shape[3] or 0
    return "NCHW" if first < last else "NHWC" if last < first else ""

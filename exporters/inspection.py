"""The contents of an artifact and what runs each operator: for ``qat inspect``, and for anyone who doubts a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.display.page import Displayed, Page
from qat.display.table import Column, Table, facts
from qat.runtimes import TensorInfo, Weight, format_of, open_session
from qat.runtimes.model_file import FileKind

from .export import encodings_path
from .exporter import exporter_of
from .metadata import Metadata

#: The operators that make float weights of stored ones.
_RESTORES = {"DEQUANTIZE", "DequantizeLinear", "MatMulNBits"}


@dataclass(frozen=True, repr=False)
class Inspection(Displayed):
    """An artifact.

    Attributes:
        path: of the file.
        inputs: with their types and, where they are integers, their scales.
        outputs: likewise.
        runs: the number of operators that really run, by the library that runs them, then by name.
        weights: every weight, in the file's order.
        activations: the encodings of the other tensors, by name.
        metadata: what the file says of itself; None where it says nothing.
        scopes: by the name of a tensor or weight, the scope of its operator: what ``qat plan`` and the rules of recipes call it.
            Known of this toolkit's files, whose encodings lie beside them.
    """

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    runs: Mapping[str, Counter[str]]
    weights: tuple[Weight, ...]
    activations: Mapping[str, Encoding]
    metadata: Metadata | None = None
    scopes: Mapping[str, str] = field(default_factory=dict)

    def bits(self) -> Counter[str]:
        """Count the weights by the type that they are stored in."""
        return Counter(weight.dtype for weight in self.weights)

    def says(self) -> list[tuple[str, str]]:
        """Return the metadata by name, as texts."""
        m = self.metadata
        if m is None:
            return []
        texts = {"name": m.name, "description": m.description, "version": m.version, "author": m.author, "license": m.license}
        if m.labels:
            texts["labels"] = f"{len(m.labels)}: {', '.join(m.labels[:10])}{', ...' if len(m.labels) > 10 else ''}"
        if m.normalization is not None:
            mean, std = (", ".join(f"{x:.6g}" for x in numbers) for numbers in m.normalization)
            texts["pixels"] = f"(0 to 255 - {mean}) / {std}"
        return [(key, text) for key, text in texts.items() if text]

    def __repr__(self) -> str:
        return f"Inspection({self.path}: {self._stored()})"

    def page(self) -> Page:
        """Return inputs and outputs, what runs the operators, every weight and every scale."""
        runs = [
            (f"run by {runner}", ", ".join(f"{count} {name}" for name, count in counts.most_common()))
            for runner, counts in self.runs.items()
        ]
        scope = Column("scope") if self.scopes else None
        weights = tuple((w.name, shape_text(w.shape), w.dtype, _scales(w.scale), *self._scope(w.name)) for w in self.weights)
        tensors = tuple(
            (name, e.dtype, _scales(e.scale), str(e.zero_point), *self._scope(name)) for name, e in self.activations.items()
        )
        tables = (
            _ends("input", self.inputs),
            _ends("output", self.outputs),
            facts(*self.says(), *runs, ("weights", self._stored())),
            Table((Column("weight"), Column("shape"), Column("stored as"), Column("scales"), *filter(None, [scope])), weights),
            Table(
                (Column("tensor"), Column("type"), Column("scale"), Column("zero point", right=True), *filter(None, [scope])),
                tensors,
            ),
        )
        filled = [table for table in tables if table.rows]
        return Page(tuple(block for table in filled for block in (table, ""))[:-1])

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as JSON-ready values."""
        weights = [
            {
                "name": w.name,
                "shape": list(w.shape),
                "dtype": w.dtype,
                "scale": None if w.scale is None else np.asarray(w.scale).tolist(),
            }
            for w in self.weights
        ]
        tensors = [{"name": name, "dtype": encoding.dtype, **encoding.to_dict()} for name, encoding in self.activations.items()]
        return {
            "path": str(self.path),
            "inputs": [_end_dict(info) for info in self.inputs],
            "outputs": [_end_dict(info) for info in self.outputs],
            "metadata": dict(self.says()),
            "runs": {runner: dict(counts) for runner, counts in self.runs.items()},
            "weights": weights,
            "activations": tensors,
            "scopes": dict(self.scopes),
        }

    def _scope(self, name: str) -> tuple[str, ...]:
        return (self.scopes.get(name, ""),) if self.scopes else ()

    def _stored(self) -> str:
        return ", ".join(f"{count} {dtype}" for dtype, count in self.bits().most_common()) or "none"


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape as text; a free first size is the batch."""
    return "x".join("batch" if i == 0 and n is None else str(n or "?") for i, n in enumerate(shape))


def _ends(what: str, infos: Sequence[TensorInfo]) -> Table:
    columns = tuple(Column(title) for title in (what, "type", "shape", "layout", "scale", "zero point"))

    def row(info: TensorInfo) -> tuple[str, ...]:
        grid = ("", "") if info.scale is None else (f"{info.scale:.6g}", str(info.zero_point))
        return (info.name, info.dtype, shape_text(info.shape), layout_of(info), *grid)

    return Table(columns, tuple(map(row, infos)))


def _end_dict(info: TensorInfo) -> dict[str, Any]:
    grid = {"scale": info.scale, "zero_point": None if info.scale is None else info.zero_point}
    return {"name": info.name, "dtype": info.dtype, "shape": list(info.shape), "layout": layout_of(info) or None, **grid}


def _scales(values: np.ndarray | None) -> str:
    if values is None:
        return ""
    flat = np.ravel(values)
    return f"{flat[0]:.6g}" if len(flat) == 1 else f"{len(flat)}: {flat.min():.3g} .. {flat.max():.3g}"


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
    said, scopes = exporter.read_metadata(raw), _scopes(path)
    return Inspection(path, session.inputs, session.outputs, session.runs(), weights, activations, said, scopes)


def _scopes(path: Path) -> dict[str, str]:
    """Return the scopes that lie beside a file of this toolkit; none of another's."""
    try:
        found = json.loads(encodings_path(path).read_text(encoding="utf-8")).get("scopes", {})
    except (OSError, ValueError, AttributeError):
        return {}  # another tool's file, or one that was copied alone
    return found if isinstance(found, dict) else {}


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

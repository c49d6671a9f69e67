"""The file that a model was read from: the names, layouts and metadata that an artifact of it carries on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from qat.graph.graph import AXIS_NAMES, axis_name
from qat.system.sample_axes import sample_axes


@dataclass(frozen=True)
class FileTensor:
    """An input or an output of a file.

    Attributes:
        name: in the file.
        shape: the size of each axis; a free axis has its name in the file, or ``""`` where the file gives none.
        dtype: NumPy's name of its type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class FileOrigin:
    """What an artifact takes over from the file that its model was read from.

    Attributes:
        suffix: ``.onnx`` or ``.tflite``.
        inputs: in the order of the file, which is that of the model's arguments.
        outputs: in the order of the file, which is that of the model's outputs.
        opset: of the operators of ONNX's own domain; None for a ``.tflite``.
        signature: the key of the signature of a ``.tflite`` whose tensors these are; empty where the file has none.
        metadata: the texts of an ``.onnx`` (``metadata_props``).
        metadata_table: the flatbuffer with the metadata of a ``.tflite``; empty where the file has none.
        associated_files: those that the table names, by name: the content of the zip behind the model.
    """

    suffix: Literal[".onnx", ".tflite"]
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    opset: int | None = None
    signature: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    metadata_table: bytes = b""
    associated_files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def free_axes(self) -> tuple[str, ...]:
        """The names (:func:`qat.graph.graph.axis_name`) of the axes, besides the batch, that the file leaves free."""
        _, axes = sample_axes([tensor.shape for tensor in self.inputs])
        names = [
            axis_name(len(tensor.shape), axis)
            for tensor, of_samples in zip(self.inputs, axes, strict=True)
            for axis, size in enumerate(tensor.shape)
            if axis not in (0, of_samples) and not isinstance(size, int)
        ]
        return tuple(name for name in dict.fromkeys(names) if name in AXIS_NAMES)


#: Where a module that was read from a file keeps its origin, among the ``meta`` of an ``fx.GraphModule``.
ORIGIN = "qat_origin"


def origin_of(model: object) -> FileOrigin | None:
    """Return the origin of a module that was read from a file; None of any other model."""
    meta = getattr(model, "meta", None)
    return meta.get(ORIGIN) if isinstance(meta, dict) else None

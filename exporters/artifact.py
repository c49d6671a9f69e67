"""The record of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.runtimes.model_file import ModelFile


@dataclass(frozen=True, kw_only=True, repr=False)
class Artifact(ModelFile):
    """A quantized model on disk, as :func:`qat.export` returns it. Its encodings lie beside it in ``<name>.encodings.json``.

    Attributes:
        path: of the ``.onnx`` or ``.tflite``.
        target: the runtime that it was written for.
        encodings: of every tensor by name, read back from the file: ``scale``, ``zero_point``, and the limits ``qmin`` and
            ``qmax`` of its integers.

    :class:`qat.runtimes.model_file.ModelFile` has the other fields, ``bytes`` and ``parity`` among them.
    """

    path: Path
    target: str
    encodings: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values, without the encodings, which lie in their file."""
        parity = None if self.parity is None else self.parity.to_dict()
        return {
            "name": self.name, "path": str(self.path), "bytes": self.bytes, "framework": self.framework, "recipe": self.recipe,
            "target": self.target, "parity": parity,
        }  # fmt: skip

    def _made(self) -> tuple[tuple[str, str], ...]:
        unproved = "not verified: qat.export(..., verify=samples) runs it against the model" if self.parity is None else ""
        return *super()._made(), ("target", self.target), ("encodings", f"{len(self.encodings)} tensors"), ("parity", unproved)

"""What an export returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .verify import Parity


@dataclass(frozen=True)
class Artifact:
    """A quantized model on disk.

    Attributes:
        path: of the ``.onnx`` or ``.tflite``; its encodings lie beside it as ``<name>.encodings.json``.
        framework, tool, recipe, target: how it came to be.
        bytes: its size.
        encodings: scale, zero point and integer limits of every tensor, read back from the file.
        parity: the artifact in its runtime against the prepared model; None where it was not verified.
        axes: of each input, how it lies where that is not as the model takes it: see :attr:`qat.program.program.Value.axes`.
        kind: ``qat`` for a trained one, ``ptq`` for a calibrated one.
    """

    path: Path
    framework: str
    recipe: str
    target: str
    bytes: int
    encodings: Mapping[str, Mapping[str, Any]]
    parity: Parity | None = None
    tool: str = "qat"
    kind: str = "qat"
    axes: tuple[tuple[int, ...] | None, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

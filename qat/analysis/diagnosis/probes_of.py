"""The maker of a file's copies, by the file's format."""

from __future__ import annotations

from pathlib import Path

from qat.runtimes import TFLITE, format_of

from .probes import Probes


def probes_of(path: Path) -> Probes:
    """Return the maker of a file's copies.

    Raises:
        DataError: the file is missing or damaged.
        QatError: the path is of no known format.
    """
    if format_of(path) is TFLITE:
        from .probes_tflite import TFLiteProbes

        return TFLiteProbes(path)
    from .probes_onnx import OnnxProbes

    return OnnxProbes(path)

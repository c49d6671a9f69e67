"""The door of this room: two files and samples in, a diagnosis out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qat.errors import DataError
from qat.runtimes import format_of

from .causes import findings_of
from .child import measured_in_child
from .measure import Job
from .measured import Facts
from .result import Diagnosis


def diagnosed(
    float_path: Path, quantized_path: Path, arrays: tuple[np.ndarray, ...], data: str = "the arrays given", data_option: str = ""
) -> Diagnosis:
    """Say where a quantized file is off, why, and what mends it.

    Args:
        float_path: a float ``.onnx`` or ``.tflite``.
        quantized_path: what any tool made of it, in either format.
        arrays: inputs ``[samples, ...]``, in the order of the files' inputs.
        data: what the samples are, in words.
        data_option: the samples as a command takes them.

    Raises:
        DataError: a file is missing or damaged, the files are not of one model, or the samples do not fit.
    """
    return Diagnosis(
        str(float_path),
        str(quantized_path),
        data,
        data_option,
        facts := facts_of(float_path, quantized_path, arrays),
        findings_of(facts),
    )


def facts_of(float_path: Path, quantized_path: Path, arrays: tuple[np.ndarray, ...]) -> Facts:
    """Measure two files. Raises as :func:`diagnosed` does."""
    for path in (float_path, quantized_path):
        format_of(path, DataError)
        if not path.is_file():
            raise DataError(f"no such file: {path}")
    bad = next((array for array in arrays if array.dtype.kind == "f" and not np.isfinite(array).all()), None)
    if bad is not None:
        raise DataError("the samples hold values that are not finite (NaN or infinity): mend the data")
    return measured_in_child(Job(float_path.resolve(), quantized_path.resolve(), arrays))

"""Mixed precision of a float file, on samples without labels: points are held against the file's own answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qat.analysis.mixed.mixed_precision import mixed_precision
from qat.analysis.mixed.result import MixedPrecision
from qat.planning.recipe import load_recipe
from qat.runs.mixed_precision import Wishes

from .inputs import BATCH, unpacked
from .opened import open_float
from .own import parts_of
from .request import Request


def choose(source: str, data: Any, request: Request, folder: Path, wishes: Wishes) -> MixedPrecision:
    """Choose the precisions of a float file or factory; the samples that are held out measure, the others calibrate."""
    opened = open_float(source, data, request, BATCH)
    kept, held = parts_of(opened)
    target = request.target or {".tflite": "litert", ".onnx": "onnxruntime"}[opened.suffix]
    made = mixed_precision(
        opened.model, unpacked(held), folder, recipe=load_recipe(request.recipe), target=target, calibration=unpacked(kept),
        example_inputs=held[0] if len(held[0]) > 1 else held[0][0], io_dtype=request.io_dtype, **wishes.arguments(),
    )  # fmt: skip
    return replace(made, trained_by=f"qat quantize {source} --data DATA --train 10m")

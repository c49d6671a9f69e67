"""A float model beside what was made of it: :func:`qat.diagnose` and ``qat diagnose``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from qat.analysis.diagnosis.diagnose import diagnosed, facts_of
from qat.analysis.diagnosis.finding import Remedy
from qat.analysis.diagnosis.result import Diagnosis, Tried
from qat.baselines.ptq import float_baseline
from qat.errors import ExportError
from qat.runtimes import FORMATS, TFLITE, format_of
from qat.typing import Estimator, FileData

from .inputs import BATCH
from .opened import Opened, open_data, open_float
from .own import parts_of
from .quantize import run
from .request import DEFAULT_RECIPE, Request


def diagnose(
    float_file: str | Path,
    int8_file: str | Path,
    data: FileData,
    *,
    attempt: bool = False,
    out: str | Path | None = None,
    scale: str | None = None,
    size: tuple[int, int] | None = None,
    samples: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> Diagnosis:
    """Say where the error of a quantized file arises, why, and which one option mends it.

    The files may be of any tool: both are reduced to the operators that compute, which are matched by name and by order. Each
    operator is run alone on the float file's values, and its error is sent through the rest of the float file: that is its share.

    Args:
        float_file: a float ``.onnx`` or ``.tflite``; a ``.keras`` file, or a factory
            ``package.module:function``, is exported first.
        int8_file: the ``.onnx`` or ``.tflite`` that was made of it.
        data: inputs like those of the application, as for :func:`qat.quantize`; 100 samples or more.
        attempt: whether to quantize the float file anew with the first remedy, and measure what that brings.
        out: the folder of the file that ``attempt`` makes; None keeps none.
        scale: of images, as for :func:`qat.quantize`.
        size: height and width of images where the file leaves them free.
        samples: the most samples that are read.
        seed: of the draw of the samples.
        overwrite: whether an existing result of ``attempt`` may be replaced.

    Returns:
        The diagnosis. Its ``cause`` is empty where nothing is wrong.

    Raises:
        DataError: a file is missing or damaged, the files are not of one model, or the data do not fit.
        ExportError: the result of ``attempt`` exists.

    Examples:
        >>> import keras, numpy as np, qat
        >>> x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
        >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
        >>> net.save("net.keras")
        >>> made = qat.quantize("net.keras", x)
        >>> qat.diagnose("net.keras", made.path, x).cause
        ''
    """
    folder = None if out is None else Path(out)
    request = Request(scale=scale, size=size, samples=samples, seed=seed, out=folder, overwrite=overwrite)
    quantized = Path(int8_file)
    format_of(quantized)
    with _as_file(float_file, quantized, data, request) as (path, opened):
        option = str(data) if isinstance(data, (str, Path)) else ""
        given = opened.samples
        found = diagnosed(path, quantized, given.arrays, given.said, option)
        found = replace(found, float_path=str(float_file))
        if not attempt or not found.findings or not found.findings[0].remedy.applies:
            return found
        return replace(found, tried=_tried(float_file, path, quantized, data, opened, found.findings[0].remedy, request))


@contextmanager
def _as_file(source: str | Path, quantized: Path, data: Any, request: Request) -> Iterator[tuple[Path, Opened]]:
    """Yield a float model as a file, exported where it is none, and its samples."""
    path = Path(source)
    if path.suffix in FORMATS:
        yield path, open_data(path, data, request, BATCH)
        return
    opened = open_float(source, data, request, BATCH)
    target = "litert" if format_of(quantized) is TFLITE else "onnxruntime"
    with tempfile.TemporaryDirectory() as folder:
        made = float_baseline(opened.model, tuple(x[:1] for x in opened.samples.arrays), folder, target=target)
        if made.path is None:
            raise ExportError(f"{source} cannot be exported to be compared with {quantized}: {made.error}")
        yield made.path, opened


def _tried(source: str | Path, path: Path, quantized: Path, data: Any, opened: Opened, remedy: Remedy, request: Request) -> Tried:
    """Quantize a float model as a remedy says, and measure both files on samples held out."""
    held = tuple(np.concatenate(column) for column in zip(*parts_of(opened)[1], strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        target = remedy.target or ("litert" if format_of(quantized) is TFLITE else None)
        estimator = cast("Estimator | None", remedy.estimator or None)
        asked = replace(
            request, recipe=remedy.recipe or DEFAULT_RECIPE, rules=remedy.rules, estimator=estimator, target=target,
            out=request.out or Path(temporary), overwrite=request.overwrite or request.out is None,
        )  # fmt: skip
        made = run(source, data, asked)
        assert made.path is not None
        before, after = (facts_of(path, file, held) for file in (quantized, made.path))
    kept = None if request.out is None else str(made.path)
    return Tried(remedy.says, kept, before.sqnr, after.sqnr, before.same, after.same, after.samples)

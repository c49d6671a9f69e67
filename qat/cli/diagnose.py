"""The command that says why a quantized file is off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Data, Samples, Scale, Size, size_of
from .result import Result


def diagnose(
    float_file: Annotated[
        str, typer.Argument(metavar="FLOAT", help="The float .onnx, .tflite or .keras, or a factory (package.module:function).")
    ],
    int8_file: Annotated[Path, typer.Argument(metavar="INT8", help="The .onnx or .tflite that any tool made of it.")],
    data: Data = None,
    scale: Scale = None,
    size: Size = None,
    samples: Samples = 256,
    attempt: Annotated[
        bool, typer.Option("--try", help="Quantize the float file with the option that mends the first cause, and measure that.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder of report.html, diagnosis.json and what --try makes; default: none."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
) -> Result:
    """Say where the error of a quantized file arises, why, and which option mends it."""
    from qat.analysis.diagnosis.files import NAMES, write_results
    from qat.display.page import Page, Whole
    from qat.errors import DataError
    from qat.files.diagnosed import diagnose as diagnosed
    from qat.system.atomic_files import refuse_existing

    if data is None:
        raise DataError(
            "--data is missing: a folder of images, an .npz or package.module:function, like the application's inputs"
        )
    if out is not None and not overwrite:
        refuse_existing(*(out / name for name in NAMES.values()))  # before the work
    found = diagnosed(
        float_file, int8_file, data, attempt=attempt, out=out, scale=scale, size=size_of(size), samples=samples,
        overwrite=overwrite,
    )  # fmt: skip
    if out is None:
        return Result(found.to_dict(), found.page())
    files = write_results(found, out, overwrite)
    written = tuple(Whole(f"written: {path}") for path in files.values())
    document = found.to_dict() | {"files": {what: str(path) for what, path in files.items()}}
    return Result(document, Page((*found.page().blocks, "", *written)))

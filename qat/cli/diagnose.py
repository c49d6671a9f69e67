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
        Path | None, typer.Option("--out", "-o", help="The folder of what --try makes; default: none is kept.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result of --try.")] = False,
) -> Result:
    """Say where the error of a quantized file arises, why, and which option mends it."""
    from qat.errors import DataError
    from qat.files.diagnosed import diagnose as diagnosed

    if data is None:
        raise DataError(
            "--data is missing: a folder of images, an .npz or package.module:function, like the application's inputs"
        )
    found = diagnosed(
        float_file, int8_file, data, attempt=attempt, out=out, scale=scale, size=size_of(size), samples=samples,
        overwrite=overwrite,
    )  # fmt: skip
    return Result(found.to_dict(), found.page())

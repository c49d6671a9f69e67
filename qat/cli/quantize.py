"""The command that quantizes float files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from .options import Data, Samples, Scale, Size, size_of
from .result import Result

_FORMS = "int8 (static_wi8_ai8), fp16 (float16) or dynamic (dynamic_wi8_afp32)"


def quantize(
    files: Annotated[
        list[str], typer.Argument(help="Float .onnx, .tflite, .keras or .task files, or factories (package.module:function).")
    ],
    data: Data = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A name that qat recipes lists, or a YAML file; default: static_wi8_ai8. For a .task also model=NAME,..."
        ),
    ] = None,
    short: Annotated[str | None, typer.Option("--quantize", help=f"A short form of --recipe: {_FORMS}.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A regular expression: operators whose scope matches stay float.")
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="A rule behind the recipe's, 'scope=^head,bits=4' for example.")] = None,
    train: Annotated[
        str, typer.Option(help="Train to the float outputs, without labels: 10m, 90s, a number of steps, or none.")
    ] = "none",
    start: Annotated[
        str | None, typer.Option(help="Learn roundings after calibration, before training or in its place: adaround or brecq.")
    ] = None,
    tool: Annotated[str, typer.Option(help="qat, or another for comparison: aeq, onnxruntime, tflite.")] = "qat",
    io_dtype: Annotated[str, typer.Option(help="Of a .tflite's inputs and outputs: float32, int8 or uint8.")] = "float32",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder of the results; default: beside each file.")] = None,
    target: Annotated[str | None, typer.Option(help="A target that qat recipes lists; default: by the format.")] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="Of the ranges: minmax, ema, percentile, mse, importance, entropy; default: the best of four."),
    ] = None,
    scale: Scale = None,
    size: Size = None,
    samples: Samples = 512,
    outputs: Annotated[
        str,
        typer.Option(help="auto: coordinates leave unrounded where 256 values are few for them; float: all; or int8."),
    ] = "auto",
    max_error: Annotated[
        float | None,
        typer.Option(help="In percent: the layers that lose most stay in 16 bits or float, until the error is at most this."),
    ] = None,
    same_answers: Annotated[
        float | None,
        typer.Option(help="Of classes, in percent: the same, until at least so many answers are float's; 100 changes none."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page for people there, report.html for example.")] = None,
    force: Annotated[bool, typer.Option("--force", "--overwrite", help="Replace existing results.")] = False,
) -> Result:
    """Quantize float files, calibrated on data and at will trained to their own float outputs, without labels."""
    from qat.errors import ConfigError
    from qat.files.quantize import run_all
    from qat.files.request import DEFAULT_RECIPE, SHORT_FORMS, Outputs, Request, Start, Tool
    from qat.files.webpage import web_page
    from qat.report.html.render import write_page
    from qat.system.atomic_files import make_folder, refuse_existing
    from qat.typing import Estimator, IoDtype

    if short is not None and (recipe is not None or short not in SHORT_FORMS):
        raise ConfigError(f"--quantize is one of {', '.join(SHORT_FORMS)}, in place of --recipe")
    request = Request(
        recipe=recipe or short or DEFAULT_RECIPE, exclude=exclude or (), rules=rule or (), train=train,
        start=cast("Start | None", start), tool=cast("Tool", tool), io_dtype=cast("IoDtype", io_dtype), out=out, target=target,
        estimator=cast("Estimator | None", estimator), scale=scale, size=size_of(size), samples=samples, overwrite=force,
        outputs=cast("Outputs", outputs), max_error=max_error, same_answers=same_answers,
    )  # fmt: skip
    if report is not None:  # before the work
        if not force:
            refuse_existing(report)
        make_folder(report.parent)
    made = run_all(files, data, request)
    if report is not None:
        write_page(web_page(made), report, overwrite=True)
    for file in made.files:
        if file.failed is not None:
            named = "" if str(file.source) in file.failed else f"{file.source}: "
            typer.echo(f"error: {named}{file.failed}", err=True)
    return Result(made.to_dict(), made.page(), made.exit_code)

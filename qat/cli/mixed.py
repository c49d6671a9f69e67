"""The command that chooses the precision of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from .options import Data, Scale, Size, size_of
from .result import Result
from .runs import open_job


def mixed_precision(
    model: Annotated[
        Path, typer.Argument(help="A run configuration (a file, or a name); with --data a float .onnx, .tflite or .keras file.")
    ],
    minimize: Annotated[str, typer.Option(help="What the layers cost: size or latency.")] = "size",
    max_drop: Annotated[
        float | None, typer.Option(help="How much worse the metric may be than float's: the cheapest point within it is named.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="The most bytes of weights.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="The most milliseconds, as predicted.")] = None,
    points: Annotated[int, typer.Option(help="The most points of the front that are built.")] = 5,
    choice: Annotated[
        list[str] | None,
        typer.Option(
            help="A precision: a recipe of one rule, or float; more of them by repeating it; default: all of the target."
        ),
    ] = None,
    latencies: Annotated[
        Path | None, typer.Option(help="A .csv or .yaml of layer, choice, ms in the place of timing on this machine.")
    ] = None,
    samples: Annotated[int, typer.Option(help="The most samples of the validation data, or of --data, that measure.")] = 1024,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: mixed_precision in the run's folder, or here.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="With --data: a target that qat recipes lists; default: by the file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing recipes and artifacts.")] = False,
    data: Data = None,
    scale: Scale = None,
    size: Size = None,
) -> Result:
    """Choose the precision of each layer by its sensitivity and cost, and build the points of the Pareto front."""
    from qat.analysis.mixed.mixed_precision import Minimized
    from qat.analysis.mixed.written import write_results
    from qat.display.page import Page, Whole
    from qat.runs.mixed_precision import Wishes

    wishes = Wishes(cast("Minimized", minimize), max_drop, max_bytes, max_ms, points, choice, latencies, overwrite)
    if data is not None or model.suffix in (".onnx", ".tflite", ".keras"):
        from qat.files.mixed_precision import choose as choose_for_file
        from qat.files.request import Request

        folder = out or Path(f"{model.stem}_mixed_precision")
        request = Request(scale=scale, size=size_of(size), samples=samples, target=target)
        found = choose_for_file(str(model), data, request, folder, wishes)
    else:
        from qat.errors import ConfigError
        from qat.runs.mixed_precision import choose

        if target is not None:
            raise ConfigError("the configuration names the target: leave out --target, or give --data and a float file")
        job = open_job(model, out, subfolder="mixed_precision")
        folder = job.folder
        found = choose(job, folder, samples, wishes)
    files = write_results(found, folder)
    written = tuple(Whole(f"written: {path}") for path in files.values())
    return Result(found.to_dict() | {"files": {k: str(v) for k, v in files.items()}}, Page((*found.page().blocks, "", *written)))

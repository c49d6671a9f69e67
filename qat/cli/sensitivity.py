"""The command that measures which layers hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from .options import Config
from .result import Result

Out = Annotated[Path | None, typer.Option("--out", "-o", help="The folder of the results; default: runs/<name>/sensitivity.")]


def sensitivity(
    config: Config,
    method: Annotated[
        str, typer.Option(help="exact: one layer at a time; fast: all at once from gradients, in 10 evaluations at most.")
    ] = "exact",
    what: Annotated[str, typer.Option(help="Of a layer is quantized: weight, activation or both.")] = "both",
    threshold: Annotated[float, typer.Option(help="The drop in percent above which a layer is sensitive.")] = 0.5,
    budget: Annotated[float | None, typer.Option(help="The drop that the whole recipe may have; default: the threshold.")] = None,
    samples: Annotated[int, typer.Option(help="The most validation samples that are measured on.")] = 1000,
    recipes: Annotated[bool, typer.Option(help="Try recipes that spare layers, in the runtime.")] = True,
    out: Out = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
) -> Result:
    """Measure what each layer's quantization costs, and the recipe that leaves the sensitive layers at higher precision."""
    from qat.analysis.sensitivity.layers import Part
    from qat.analysis.sensitivity.sensitivity import Method
    from qat.display.page import Page, Whole
    from qat.runs.sensitivity import Options, measure

    from .runs import open_job

    options = Options(cast("Method", method), cast("Part", what), threshold, budget, samples, recipes)
    job = open_job(config, out, subfolder="sensitivity")
    found, files = measure(job, options, overwrite)
    written = tuple(Whole(f"written: {path}") for path in files.values())
    return Result(found.to_dict() | {"files": {k: str(v) for k, v in files.items()}}, Page((*found.page().blocks, "", *written)))

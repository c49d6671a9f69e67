"""The commands that read artifacts: one alone, or several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Data, Samples, Scale, Size, size_of
from .result import Result
from .runs import open_job, written_below

if TYPE_CHECKING:
    from qat.report.report import Report


def compare(
    config: Annotated[Path, typer.Argument(help="A run configuration (a file, or a name); with --data the first artifact.")],
    entries: Annotated[
        list[str],
        typer.Argument(
            help="Artifacts (.onnx, .tflite), Keras models (.keras), weights of the configuration's model (.pth, .safetensors, "
            ".weights.h5), factories (package.module:function). A float one is the reference, else the first."
        ),
    ],
    data: Data = None,
    scale: Scale = None,
    size: Size = None,
    samples: Samples = 512,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for summary.json, summary.md, report.html and the plots.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier comparison in that folder.")] = False,
) -> Result:
    """Compare artifacts and models on the test split of a configuration's data, or artifacts on --data without labels."""
    from qat.system.atomic_files import refuse_existing

    if out is not None and not overwrite:
        refuse_existing(out / "summary.json", out / "report.html")
    if data is not None or config.suffix in (".onnx", ".tflite"):
        from qat.files.compared import compare_files
        from qat.files.request import Request

        request = Request(scale=scale, size=size_of(size), samples=samples)
        return _written(compare_files([str(config), *entries], data, request), out)
    from qat.runs import stages
    from qat.runs.compared import entries_of
    from qat.runs.data import RunData

    job = open_job(config, None)
    split = RunData(job.config, job.base)
    return _written(stages.compare(job, split, entries_of(job, split, entries)), out)


def _written(report: Report, out: Path | None) -> Result:
    """Return a comparison, its files written where that is asked for."""
    from qat.report.render import document_of

    if out is None:
        return Result(document_of([report], Path.cwd()) | {"summary": None, "report": None}, report.page())
    page = report.save(out, overwrite=True)  # refused before the work where that was to be
    summary = page.with_name("summary.json")
    files = {"summary": str(summary), "report": str(page)}
    return Result(document_of([report], out) | files, written_below(report.page(), summary))


def inspect(artifact: Annotated[Path, typer.Argument(help="A .onnx or .tflite file.")]) -> Result:
    """Show an artifact: inputs and outputs, the operators that really run, the bits of each weight, and every scale."""
    from qat.exporters.inspection import inspect as read

    found = read(artifact)
    return Result(found.to_dict(), found.page())

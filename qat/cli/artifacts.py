"""The commands that read artifacts: one alone, or several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Config
from .result import Result
from .runs import open_job


def compare(
    config: Config,
    entries: Annotated[
        list[str],
        typer.Argument(
            help="Artifacts (.onnx, .tflite), Keras models (.keras), weights of the configuration's model (.pth, .safetensors, "
            ".weights.h5), factories (package.module:function). A float one is the reference, else the first."
        ),
    ],
) -> Result:
    """Compare artifacts and models on the test split of a configuration's data; a model is exported first."""
    from qat.report.render import document_of
    from qat.runs import stages
    from qat.runs.compared import entries_of
    from qat.runs.data import RunData

    job = open_job(config, None)
    data = RunData(job.config, job.base)
    report = stages.compare(job, data, entries_of(job, data, entries))
    return Result(document_of([report], Path.cwd()), report.page())


def inspect(artifact: Annotated[Path, typer.Argument(help="A .onnx or .tflite file.")]) -> Result:
    """Show an artifact: inputs and outputs, the operators that really run, the bits of each weight, and every scale."""
    from qat.exporters.inspection import inspect as read

    found = read(artifact)
    return Result(found.to_dict(), found.page())

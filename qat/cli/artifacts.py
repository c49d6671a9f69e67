"""The commands that read artifacts: one alone, or several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Config
from .runs import open_job
from .terminal import console


def compare(
    config: Config,
    entries: Annotated[
        list[str],
        typer.Argument(
            help="Artifacts (.onnx, .tflite), Keras models (.keras), weights of the configuration's model (.pth, .safetensors, "
            ".weights.h5), factories (package.module:function). A float one is the reference, else the first."
        ),
    ],
) -> None:
    """Compare artifacts and models on the test split of a configuration's data; a model is exported first."""
    from qat.report.render import print_report
    from qat.runs import stages
    from qat.runs.compared import entries_of
    from qat.runs.data import RunData

    job = open_job(config, None)
    data = RunData(job.config, job.base)
    print_report(stages.compare(job, data, entries_of(job, data, entries)), console())


def inspect(artifact: Annotated[Path, typer.Argument(help="A .onnx or .tflite file.")]) -> None:
    """Show an artifact: inputs and outputs, the operators that really run, the bits of each weight, and every scale."""
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from qat.exporters.inspection import inspect as read
    from qat.exporters.inspection import layout_of

    def scales(values: Any) -> str:
        flat = np.ravel(values)
        return f"{flat[0]:.6g}" if len(flat) == 1 else f"{len(flat)}: {flat.min():.3g} .. {flat.max():.3g}"

    out = console()
    found = read(artifact)
    for title, infos in (("input", found.inputs), ("output", found.outputs)):
        for info in infos:
            shape = "x".join("batch" if i == 0 and n is None else str(n or "?") for i, n in enumerate(info.shape))
            grid = "" if info.scale is None else f"scale {info.scale:.6g}, zero point {info.zero_point}"
            facts = [Text(title), Text(info.name, "bold"), *map(Text, (info.dtype, shape, layout_of(info), grid))]
            out.print(Text("  ").join(fact for fact in facts if fact))
    for line in found.says():
        out.print(line, soft_wrap=True)
    for runner, counts in found.runs.items():
        if counts:
            out.print(f"run by {runner}: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    out.print("weights: " + (", ".join(f"{n} {dtype}" for dtype, n in found.bits().most_common()) or "none"))
    table = Table("weight", "shape", "stored as", "scales")
    for weight in found.weights:
        shown = "" if weight.scale is None else scales(weight.scale)
        table.add_row(weight.name, "x".join(map(str, weight.shape)), weight.dtype, shown)
    out.print(table)
    table = Table("tensor", "type", "scale", "zero point")
    for name, encoding in found.activations.items():
        table.add_row(name, encoding.dtype, scales(encoding.scale), str(encoding.zero_point))
    out.print(table)

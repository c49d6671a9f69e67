"""The command that writes a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .result import Result

From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="MODEL", help="model.py:make, package.module:make, or model.keras, .onnx, .tflite; none: an example."
    ),
]
Data = Annotated[Path | None, typer.Option(help="A folder of images, of .npy or of IDX files, or an .npz.")]
Weights = Annotated[Path | None, typer.Option(help="Of the model that a factory makes: .pth, .safetensors or .weights.h5.")]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


def init(
    model: From = None, data: Data = None, weights: Weights = None, out: Out = Path("qat.yaml"), force: Force = False
) -> Result:
    """Write a commented configuration, after a look at the model and the data."""
    from qat.display.page import Page
    from qat.display.table import Column, Table
    from qat.runs.proposal import propose

    made = propose(model, data, weights, out, force)
    columns = (Column("key"), Column("value"), Column("because", prose=True))
    table = Table(columns, tuple((guess.key, str(guess.value), guess.why) for guess in made.guesses if guess.why))
    lines = (f"{made.about}.", "") if made.about else ()
    next_steps = (
        f"written: {out}; `qat run {out}` does everything, `qat auto {out}` finds the cheapest that is good enough, `qat plan "
        f"{out}` shows what is quantized"
    )
    page = Page((*lines, table, "", next_steps))
    document = {"path": str(out), "data": made.about, "guesses": [vars(guess) for guess in made.guesses]}
    return Result(document, page)

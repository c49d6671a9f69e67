"""The command that quantizes several models which work together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .result import Result


def system(
    config: Annotated[Path, typer.Argument(help="A configuration of models and of what feeds what (docs/systems.md).")],
    output: Annotated[Path | None, typer.Option(help="Default: runs/<name>, beside the configuration.")] = None,
) -> Result:
    """Quantize the models of a system, and judge them alone and together against the float system."""
    from qat.systems.execute import execute

    result = execute(config, output)
    return Result(result.to_dict(), result.page())

"""The command that looks for the cheapest artifact that is good enough."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from .options import Config
from .result import Result

MaxDrop = Annotated[float, typer.Option(help="The most that may be lost: percentage points of a share, else percent of float's.")]
Budget = Annotated[str, typer.Option(help="The most time that the search takes: 90s, 30m, 1h.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped or killed.")]
Output = Annotated[Path | None, typer.Option("--output", "--out", "-o", help="Default: runs/<name>/auto.")]


def auto(
    config: Config, max_drop: MaxDrop = 0.5, budget: Budget = "30m", resume: Resume = False, output: Output = None
) -> Result:
    """Find the cheapest that is good enough: PTQ and its methods, then training, until the goal is reached beyond doubt."""
    from qat.auto.goal import Goal
    from qat.auto.search import search

    from .runs import open_job

    goal = Goal.of(max_drop, budget)
    job = open_job(config, output, resume, subfolder="auto")
    options = "" if output is None else f" --output {quote(str(output))}"
    again = f"qat auto {quote(str(config))} --max-drop {max_drop:g} --budget {budget}{options} --resume"
    found = search(job, goal, again)
    return Result(found.to_dict(), found.page(), found.exit_code)

"""The command that checks calibration data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Config
from .result import Result
from .runs import open_job

Strict = Annotated[bool, typer.Option("--strict", help="Exit with 2 on a warning too, not on failures alone.")]
Output = Annotated[Path | None, typer.Option("--output", "--out", "-o", help="A folder for report.html and checks.json.")]
Overwrite = Annotated[bool, typer.Option(help="Replace existing files.")]


def check(config: Config, strict: Strict = False, output: Output = None, overwrite: Overwrite = False) -> Result:
    """Check calibration data: enough, every class, real, not augmented, preprocessed as the test data."""
    from qat.analysis.checks.html import write_checks
    from qat.display.page import Page, Whole
    from qat.runs.calibration_data import checks_of
    from qat.runs.data import RunData
    from qat.runs.float_model import untrained, with_weights

    job = open_job(config, None)
    found = checks_of(RunData(job.config, job.base), with_weights(job, untrained(job)))
    page = found.page()
    if output is not None:
        written = write_checks(found, job.config.name, output, overwrite)
        page = Page((*page.blocks, Whole(f"written: {written}")))
    return Result(found.to_dict(), page, found.exit_code(strict))

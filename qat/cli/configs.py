"""The command that lists the configurations which ship with the toolkit."""

from __future__ import annotations

from .result import Result


def configs() -> Result:
    """List the configurations that run by name, each with what it is for."""
    from qat.display.page import Page, Whole
    from qat.display.table import Column, Table
    from qat.runs.shipped import folder, purpose, shipped

    known = {name: purpose(path) for name, path in shipped().items()}
    table = Table((Column("configuration"), Column("for", prose=True)), tuple(known.items()))
    return Result({"configurations": known, "folder": str(folder())}, Page((table, Whole(f"their files: {folder()}"))))

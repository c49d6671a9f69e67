"""The command that lists the configurations which ship with the toolkit."""

from __future__ import annotations

from .terminal import console


def configs() -> None:
    """List the configurations that run by name, each with what it is for."""
    from qat.display.page import Page
    from qat.display.table import Column, Table
    from qat.display.terminal import show
    from qat.runs.shipped import folder, purpose, shipped

    rows = tuple((name, purpose(path)) for name, path in shipped().items())
    show(Page((Table((Column("configuration"), Column("for", prose=True)), rows), f"their files: {folder()}")), console())

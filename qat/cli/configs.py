"""The command that lists the configurations which ship with the toolkit."""

from __future__ import annotations

from .terminal import console


def configs() -> None:
    """List the configurations that run by name, each with what it is for."""
    from rich.text import Text

    from qat.runs.shipped import folder, purpose, shipped

    out = console()
    for name, path in shipped().items():
        out.print(Text.assemble((name, "bold"), f": {purpose(path)}"))
    out.print(f"their files: {folder()}", soft_wrap=True)

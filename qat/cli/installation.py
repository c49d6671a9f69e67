"""The command that looks at the installation and the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import console

if TYPE_CHECKING:
    from qat.system.installation import Installation


def doctor(
    imports: Annotated[
        bool, typer.Option("--imports", help="Import every package too: finds broken ones, takes a minute.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is installed, what the machine has, what will not work, and the command that mends it."""
    import json

    from qat.system.installation import look

    found = look(imports)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(found)
    raise typer.Exit(1 if any(problem.serious for problem in found.problems) else 0)


def _print(found: Installation) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    table = Table.grid(padding=(0, 2))
    for name, value in found.facts().items():
        table.add_row(Text(name), value)
    out.print(table)
    table = Table("", "package", "version", "made for", "extra", box=None, pad_edge=False, header_style="dim")
    for package in found.packages:
        mark = Text("ok", "green") if package.fits else Text("no", "yellow") if package.version is None else Text("bad", "red")
        table.add_row(mark, package.name, package.version or "-", package.needs, package.extra)
    out.print()
    out.print(table)
    for problem in found.problems:
        out.print()
        out.print(Text.assemble((problem.what, "red" if problem.serious else "yellow")))
        out.print(f"  {problem.remedy}", soft_wrap=True)

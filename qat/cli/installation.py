"""The command that looks at the installation and the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .result import Result

if TYPE_CHECKING:
    from qat.display.page import Page
    from qat.system.installation import Installation
    from qat.system.packages import Package


def doctor(
    imports: Annotated[
        bool, typer.Option("--imports", help="Import every package too: finds broken ones, takes a minute.")
    ] = False,
) -> Result:
    """Say what is installed, what the machine has, what will not work, and the command that mends it."""
    from qat.system.installation import look

    found = look(imports)
    return Result(found.to_dict(), _page(found), 1 if any(problem.serious for problem in found.problems) else 0)


def _page(found: Installation) -> Page:
    from qat.display.page import Block, Page, Whole
    from qat.display.table import Column, Style, Table, facts

    titles = ("package", "", "version", "made for", "extra")
    rows = tuple((p.name, _mark(p), p.version or "-", p.needs, p.extra) for p in found.packages)
    marks: dict[str, Style] = {"bad": "bad", "no": "notice"}
    styles = tuple(marks.get(row[1], "") for row in rows)
    blocks: list[Block] = [facts(*found.facts().items()), "", Table(tuple(map(Column, titles)), rows, styles=styles)]
    for problem in found.problems:
        blocks += ["", Whole(problem.what, "bad" if problem.serious else "notice"), Whole(f"  {problem.remedy}")]
    return Page(tuple(blocks))


def _mark(package: Package) -> str:
    return "ok" if package.fits else "no" if package.version is None else "bad"

"""The command that looks at the installation and the machine."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from .result import Result

if TYPE_CHECKING:
    from qat.display.page import Block, Page
    from qat.display.table import Table
    from qat.system.installation import Installation
    from qat.system.kernel_cache import Measured
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
    from qat.display.page import Page, Whole
    from qat.display.table import Column, Style, Table, facts

    titles = ("package", "", "version", "made for", "extra")
    rows = tuple((p.name, _mark(p), p.version or "-", p.needs, p.extra) for p in found.packages)
    marks: dict[str, Style] = {"bad": "bad", "no": "notice"}
    styles = tuple(marks.get(row[1], "") for row in rows)
    blocks: list[Block] = [facts(*found.facts().items()), "", Table(tuple(map(Column, titles)), rows, styles=styles)]
    for measured in found.kernels:
        blocks += ["", *_fastest(measured)]
    for problem in found.problems:
        blocks += ["", Whole(problem.what, "bad" if problem.serious else "notice"), Whole(f"  {problem.remedy}")]
    return Page(tuple(blocks))


def _fastest(measured: Measured) -> tuple[Block, Table]:
    """Return which forms of the kernels were the fastest, and how often."""
    from qat.display.page import Whole
    from qat.display.table import Column, Table

    of = measured.conditions
    forms: dict[str, Counter[str]] = {}
    for question, form in measured.forms.items():
        forms.setdefault(question.partition(":")[0], Counter())[form] += 1
    rows = [(kernel, ", ".join(f"{form} {n}" for form, n in counts.most_common())) for kernel, counts in forms.items()]
    titles = (Column("kernel"), Column("the fastest form, and for how many shapes"))
    where = f"kernels of {of.framework}, measured on {of.processor}, {of.threads} thread{'s' if of.threads > 1 else ''}"
    return Whole(where), Table(titles, tuple(rows))


def _mark(package: Package) -> str:
    return "ok" if package.fits else "no" if package.version is None else "bad"

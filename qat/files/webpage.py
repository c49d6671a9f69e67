"""The page of files that were quantized: what they became, and of each its layers and the samples that changed most."""

from __future__ import annotations

from qat.display.page import Whole
from qat.display.table import facts
from qat.report.html.page import Block, Figure, Section, WebPage
from qat.report.html.plots import Bar, Bars
from qat.report.webpage import samples_of

from .result import Quantization, QuantizedFile, shown


def web_page(made: Quantization) -> WebPage:
    """Return the page of several files."""
    files = [file for file in made.files if file.failed is None]
    rows = [row for file in files for row in (file, *file.parts)]
    sections = [Section("Size and error", (*_plots(rows), *made.page().blocks))]
    sections += [_of_file(row, index) for index, row in enumerate(rows)]
    failed = tuple(f"{file.source}: {file.failed}" for file in made.files if file.failed is not None)
    title = rows[0].path.name if len(rows) == 1 and rows[0].path is not None else f"{len(made.files)} files quantized"
    return WebPage(title, _lead(files, len(failed)), tuple(sections), "bad" if failed else "", (), failed)


def _lead(files: list[QuantizedFile], failed: int) -> str:
    """Return in a sentence or two what the files became."""
    before, after = sum(file.float_bytes for file in files), sum(file.bytes for file in files)
    worst = max((file.error_percent for file in files if file.error_percent is not None), default=None)
    many = "1 file is" if len(files) == 1 else f"{len(files)} files are"
    times = f", {before / after:.2f} times smaller than float" if before and after else ""
    error = "" if worst is None else f"; the {'largest ' if len(files) > 1 else ''}error against float is {shown(worst, ' %')}"
    return f"{many} quantized: {after:,} bytes{times}{error}." + (f" {failed} failed." if failed else "")


def _plots(rows: list[QuantizedFile]) -> list[Figure]:
    """Return the sizes, and the errors where there are several."""
    named = [(row.source if row.path is None else row.path.name, row) for row in rows]
    size = [Bar(f"{name}, float", row.float_bytes / 1024, group="float") for name, row in named if row.float_bytes]
    size += [Bar(name, row.bytes / 1024, group="quantized") for name, row in named if row.bytes]
    errors = [Bar(name, row.error_percent) for name, row in named if row.error_percent is not None]
    plots = [Figure("size", Bars("Size", "KiB", tuple(size), ",.0f"))] if size else []
    if len(errors) > 1:
        plots.append(Figure("error", Bars("Error against float", "% of the outputs' spread", tuple(errors))))
    return plots


def _of_file(file: QuantizedFile, index: int) -> Section:
    name = file.source if file.path is None else file.path.name
    blocks: list[Block] = [facts(("from", file.source), *file.facts())]
    if file.comparison is not None:
        blocks.append(Section("Samples", samples_of(file.comparison, f"file{index}")))
    if file.plan is not None:
        blocks.append(Section("The plan, layer by layer", file.plan.page().blocks))
    if file.path is not None:
        blocks.append(Whole(f"qat inspect {file.path}"))
    return Section(name, tuple(blocks))

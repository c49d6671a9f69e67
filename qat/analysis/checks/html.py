"""The checks as a page of their own, and as a section of another page."""

from __future__ import annotations

import json
from pathlib import Path

from qat.display.table import Column, Table
from qat.report.html.page import Mood, Section, WebPage
from qat.report.html.render import write_page
from qat.system.atomic_files import make_folder, refuse_existing, write_atomically

from .result import STYLES, DataChecks


def section(found: DataChecks) -> Section:
    """Return the checks as a section: a row each, and the next steps."""
    titles = ("measures", "found", "passes")
    columns = (Column("check"), Column("result"), *(Column(title, prose=True) for title in titles))
    rows = tuple((c.name, c.status, c.measures, c.figure, c.threshold) for c in found.checks)
    table = Table(columns, rows, found.line(), tuple(STYLES[c.status] for c in found.checks))
    steps = tuple(f"{c.name}: {c.next_step}" for c in found.checks if c.next_step)
    return Section("Calibration data", (table, *steps))


def web_page(found: DataChecks, title: str) -> WebPage:
    """Return the page of the checks of a configuration's or file's calibration data."""
    wrong = list(found.not_fine())
    mood: Mood = "good" if not wrong else "bad" if found.exit_code() else "notice"
    lead = "Nothing is wrong with the calibration data." if not wrong else ". ".join(_capital(c.sentence()) for c in wrong) + "."
    not_run = tuple(f"{c.name}: {c.figure}" for c in found.checks if c.status == "not applicable")
    facts = (("samples", f"{found.samples:,}"), ("reference", f"{found.reference:,}"))
    return WebPage(title, lead, (section(found),), mood, facts, not_run)


def write_checks(found: DataChecks, name: str, folder: Path, overwrite: bool = False) -> Path:
    """Write ``report.html`` and ``checks.json`` into a folder, and return the path of the page.

    Raises:
        ExportError: one exists and ``overwrite`` is False, or cannot be written.
    """
    document, page = folder / "checks.json", folder / "report.html"
    if not overwrite:
        refuse_existing(document, page)
    make_folder(folder)
    write_atomically(document, json.dumps(found.to_dict(), indent=2) + "\n", overwrite=True)
    return write_page(web_page(found, f"{name}: calibration data"), page, overwrite=True)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

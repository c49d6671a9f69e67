"""A diagnosis as a page: what is wrong and what mends it, and the error along the network."""

from __future__ import annotations

from qat.display.page import Whole
from qat.display.table import Column, Table
from qat.report.html.page import Block, Figure, Mood, Section, WebPage
from qat.report.html.plots import Bar, Bars, Line, Lines, Reference

from .causes import HEALTHY, SPOILED
from .measured import StepFacts
from .result import Diagnosis, row_of

#: The most bars of a plot, and the SQNR as which a step without any error is drawn, in dB.
_MOST_BARS, _EXACT = 40, 80.0


def web_page(found: Diagnosis) -> WebPage:
    """Return the page of a diagnosis."""
    f = found.facts
    same = "" if f.same is None else f"{f.same} of {f.samples}"
    named = (
        ("float file", found.float_path), ("quantized file", found.quantized_path), ("data", found.data),
        ("outputs against float", f"{f.sqnr:.1f} dB"), ("same answers as float", same),
    )  # fmt: skip
    missing = (f"not found in the quantized file, and not measured: {', '.join(f.unmatched)}",) if f.unmatched else ()
    sections = (Section("Why", _why(found)), Section("What next", _next(found)), Section("Where", _where(found)))
    facts = tuple((name, text) for name, text in named if text)
    return WebPage(f"Diagnosis of {found.quantized_path}", found.verdict(), sections, _mood(found), facts, missing)


def _mood(found: Diagnosis) -> Mood:
    return "bad" if found.findings else "good" if found.facts.spread_sqnr >= SPOILED else "notice"


def _why(found: Diagnosis) -> tuple[Block, ...]:
    if not found.findings:
        return ()
    columns = (Column("cause"), Column("share of error", right=True), Column("evidence", prose=True))
    rows = tuple((finding.title, f"{finding.share:.0%}", finding.evidence.says) for finding in found.findings)
    return (Table(columns, rows),)


def _next(found: Diagnosis) -> tuple[Block, ...]:
    advice, command = found.next_step()
    tried = (found.tried.line(),) if found.tried is not None else ()
    return (*((advice,) if advice else ()), *((Whole(command),) if command else ()), *tried)


def _where(found: Diagnosis) -> tuple[Block, ...]:
    steps = found.facts.steps
    places = tuple(float(number) for number in range(1, len(steps) + 1))
    lines = (
        Line("with the errors before it", places, tuple(_drawn(step.sqnr) for step in steps)),
        Line("alone", places, tuple(_drawn(step.own_sqnr) for step in steps)),
    )
    title, x_label = "SQNR along the network", "operator, in the network's order"
    along = Lines(title, x_label, "SQNR, dB", lines, ".1f", Reference(f"{HEALTHY:.0f} dB", HEALTHY))
    chosen = sorted(steps, key=lambda step: -(step.share or 0.0))[:_MOST_BARS]
    guilty = set(found.findings[0].evidence.steps) if found.findings else set()
    bars = tuple(
        Bar(_called(step), 100 * (step.share or 0.0), group="named" if step.name in guilty else "others")
        for step in steps
        if step in chosen
    )
    shares = Bars("Share of the outputs' error that each operator makes alone", "share, %", bars, ".1f")
    drop = found.first_drop
    return (
        *(() if drop is None else (f"The first drop is at '{drop.name}' ({drop.kind}): {drop.sqnr:.1f} dB.",)),
        Figure("along", along, f"An operator without any error is drawn at {_EXACT:.0f} dB."),
        Figure("shares", shares, "The shares of all operators add up to 100 %."),
        Table(found.columns(), tuple(map(row_of, steps))),
    )


def _called(step: StepFacts) -> str:
    return f"{step.name} ({step.kind})"


def _drawn(value: float) -> float:
    return min(value, _EXACT)

"""The page of a comparison, or of several: the decision first, then the figures, the samples, and how the files came about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from qat.display.table import Column, Table
from qat.runtimes.model_file import ModelFile

from . import cards
from .entry import Entry
from .html.page import Block, Figure, Mood, Section, WebPage
from .html.plots import Bar, Bars, Point, Points, Reference
from .report import WORDS, Report
from .statistics import wilson

#: The words that a page of figures cannot do without; docs/words.md has each with an example.
_MEANINGS = (
    ("Δ", "the change against the float model, on the same samples"),
    ("p", "how often chance alone would make a difference like this one: below 0.05 it is more than noise"),
    ("agree %", "share of answers that are the float model's"),
    ("FLIP, MATCH", "whether the file answers a sample otherwise than the float model, or as it does"),
    ("confidence", "the probability of the chosen class"),
    ("drift", "change of the largest probability against the float model"),
    ("MSE", "mean squared difference of the outputs from the float model's"),
    ("SQNR dB", "size of the outputs over the size of their error: 10 dB more is a third of the error"),
    ("exact", "share of the outputs that equal those of the trained model in every bit"),
)


def page_of(reports: Sequence[Report]) -> WebPage:
    """Return the page of one report, or of several below each other."""
    first = reports[0]
    not_run = tuple(line for report in reports for line in _not_run(report, len(reports) > 1))
    words = Section("The words", (_words(), f"With an example of each: {WORDS}"))
    if len(reports) == 1:
        facts = (("data", first.dataset), ("samples", f"{first.n_eval:,}"), ("framework", first.framework), *first.story.facts)
        return WebPage(first.title, first.decision, (*sections_of(first), words), _mood(first), facts, not_run)
    sections = tuple(Section(report.title, (report.decision, *sections_of(report))) for report in reports)
    lead = " ".join(f"{report.framework}: {report.decision}" for report in reports)
    moods = {_mood(report) for report in reports}
    title = ", ".join(dict.fromkeys(report.dataset for report in reports))
    return WebPage(title, lead, (*sections, words), moods.pop() if len(moods) == 1 else "notice", (), not_run)


def figures_of(report: Report) -> tuple[Figure, ...]:
    """Return the plots of a comparison's figures; their names begin with the framework's."""
    done = [entry for entry in report.entries if entry.bytes]
    prefix = _prefix(report)
    made = [_accuracy(report, done), _delta(report, done), _size(done), _drift(done), _latency(done)]
    return tuple(Figure(f"{prefix}_{figure.name}", figure.plot, figure.caption) for figure in made if figure is not None)


def _prefix(report: Report) -> str:
    """Return what the names of a report's plots begin with; a caller may call a framework anything."""
    return re.sub(r"\W+", "_", report.framework, flags=re.ASCII).strip("_") or "files"


def score_interval(report: Report, entry: Entry) -> tuple[float, float] | None:
    """Return the 95 % Wilson interval of an entry's accuracy; None of another metric."""
    metric = report.metric
    score = entry.score(metric)
    if metric is None or metric.name != "top1" or score is None or not report.n_eval:
        return None
    return wilson(score, report.n_eval)


def _mood(report: Report) -> Mood:
    if "is enough" in report.decision and not report.decision.startswith("Neither"):
        return "good"
    return "bad" if report.decision.startswith("Neither") else "notice"


def _not_run(report: Report, several: bool) -> list[str]:
    failed = [f"{entry.name}: {entry.error}" for entry in report.entries if entry.error is not None]
    said = [*failed, *report.story.not_run]
    return [f"{report.framework}: {line}" for line in said] if several else said


def sections_of(report: Report) -> tuple[Section, ...]:
    """Return the sections of a comparison: its figures, its samples, and its story."""
    figures = {figure.name.rpartition("_")[2]: figure for figure in figures_of(report)}
    first = [figures.pop(name) for name in ("accuracy", "delta") if name in figures]
    table = next(block for block in report.page().blocks if isinstance(block, Table))
    said = report.sentences()
    sentences = [s for s in said if s != report.decision and not any(s.startswith(f"{e.name} failed") for e in report.entries)]
    made = (
        Section("Size against accuracy", (*first, replace(table, title="Every file, on the same samples"), *sentences)),
        Section("Size, speed and drift", tuple(figures.values())),
        Section("Samples", samples_of(report)),
    )
    return (*(section for section in made if section.blocks), *report.story.sections)


def samples_of(report: Report, prefix: str = "") -> tuple[Block, ...]:
    """Return the samples that tell most, and how all outputs differ; nothing where there are none."""
    shown = cards.blocks(report)
    if not shown:
        return ()
    reference = "the float model" if report.against_float else report.reference
    order = "those that both answer otherwise first, then by drift" if report.samples[0].axis is not None else "by error"
    lead = f"Where {report.examined} and {reference} differ most: {order}."
    prefix = prefix or _prefix(report)
    errors = () if report.errors is None else (Figure(f"{prefix}_errors", report.errors, "A narrow heap about zero is good."),)
    return (lead, *shown, *errors)


def _words() -> Table:
    return Table((Column("word"), Column("meaning", prose=True)), _MEANINGS)


def _accuracy(report: Report, done: Sequence[Entry]) -> Figure | None:
    metric = report.metric
    scored = [(entry, score) for entry in done if (score := entry.score(metric)) is not None]
    if metric is None or not scored:
        return None
    points = []
    for entry, score in scored:
        low, high = score_interval(report, entry) or (None, None)
        points.append(Point(entry.name, entry.bytes / 1024, score, low, high, entry.kind))
    has_interval = any(point.low is not None for point in points)
    best = "up" if metric.higher_is_better else "down"
    plot = Points(
        f"{_capital(metric.title or metric.name)} against size", "size, KiB",
        f"{metric.heading}{' (95 % Wilson interval)' if has_interval else ''}", tuple(points),
        y_form=".2f" if metric.unit else ".4g", reference=_reference(report, [(e.kind, s) for e, s in scored]),
    )  # fmt: skip
    return Figure("accuracy", plot, f"Further {best} and to the left is better.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reference(report: Report, scored: Sequence[tuple[str, float]]) -> Reference | None:
    value = next((score for kind, score in scored if kind == "float"), None)
    return None if value is None or not report.against_float else Reference("float", value)


def _delta(report: Report, done: Sequence[Entry]) -> Figure | None:
    metric = report.metric
    bars = [_bar(e, e.delta, e.delta_low, e.delta_high) for e in done if e.delta is not None and e.name != report.reference]
    if metric is None or not bars:
        return None
    against = "float" if report.against_float else report.reference
    unit = ", percentage points" if metric.unit == " %" else metric.unit
    plot = Bars(
        f"Change against {against}", f"Δ {metric.title or metric.name}{unit} (95 % interval)", tuple(bars),
        "+.2f" if metric.unit else "+.4g", Reference(against, 0.0),
    )  # fmt: skip
    return Figure("delta", plot, "Both files answer the same samples, so that this interval tells more than that of each.")


def _size(done: Sequence[Entry]) -> Figure | None:
    return _bars("size", "Size", "KiB", [(e, e.bytes / 1024) for e in done], ",.0f")


def _drift(done: Sequence[Entry]) -> Figure | None:
    return _bars("drift", "Confidence drift", "mean change of the largest probability", [(e, e.drift) for e in done], ".4f")


def _latency(done: Sequence[Entry]) -> Figure | None:
    return _bars("latency", "Latency", "ms, median at batch 1 on one thread", [(e, e.latency_p50) for e in done], ".3f")


def _bars(name: str, title: str, label: str, values: Sequence[tuple[Entry, float | None]], form: str) -> Figure | None:
    bars = tuple(_bar(entry, value) for entry, value in values if value is not None)
    return Figure(name, Bars(title, label, bars, form)) if bars else None


def _bar(file: ModelFile, value: float, low: float | None = None, high: float | None = None) -> Bar:
    return Bar(file.name, value, low, high, file.kind)

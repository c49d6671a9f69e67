"""The result of a search: the artifact that was chosen, why, and what else was tried."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qat.display.page import Block, Displayed, Page, Whole
from qat.display.table import Column, Style, Table
from qat.report.render import to_dict
from qat.report.report import Report
from qat.trainers.metric import Metric

from .evidence import Evidence
from .goal import Figures, Goal
from .journal import Attempt
from .steps import STEPS

_STYLES: dict[str, Style] = {"reached": "good", "likely": "good", "missed": "bad", "": ""}


@dataclass(frozen=True, repr=False)
class Automatic(Displayed):
    """The result of a search.

    Attributes:
        goal: what was looked for.
        wanted: the goal in words.
        metric: that decides.
        reached: whether the test data, or where they are too few the validation data, say that the goal is reached.
        chosen: the step whose artifact was chosen.
        artifact: the artifact's path.
        recipe: the path of its recipe.
        attempts: the steps in order.
        evidence: of the first step's noise; None where that step reached the goal.
        report: the comparison on the test data; its decision says what was chosen, and how it does there.
        folder: of the results.
        seconds: that the search took, in all.
    """

    goal: Goal
    wanted: str
    metric: Metric
    reached: bool
    chosen: Attempt
    artifact: Path
    recipe: Path
    attempts: tuple[Attempt, ...]
    evidence: Evidence | None
    report: Report
    folder: Path
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 where the goal is reached, else 1."""
        return 0 if self.reached else 1

    def __repr__(self) -> str:
        return f"Automatic({self.report.decision})"

    def page(self) -> Page:
        """Return what was tried and why, the comparison on the test data, and the decision as the last line."""
        blocks: list[Block] = [f"goal: {self.wanted}, in {self.goal.budget:.0f} s", "", self.table(), ""]
        blocks += [*self.report.page().blocks[:1], ""]
        blocks += [Whole(f"artifact: {self.artifact}"), Whole(f"recipe: {self.recipe}"), Whole(f"journal: {self._journal}")]
        return Page((*blocks, "", self.report.decision))

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.md"

    def table(self) -> Table:
        """Return a row for each step."""
        return table_of(self.attempts, self.metric, self.chosen.step)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, paths relative to the folder."""
        return {
            "goal": {"max_drop": self.goal.max_drop, "budget_s": self.goal.budget, "said": self.wanted},
            "reached": self.reached,
            "decision": self.report.decision,
            "chosen": self.chosen.step,
            "artifact": os.path.relpath(self.artifact, self.folder),
            "recipe": os.path.relpath(self.recipe, self.folder),
            "seconds": self.seconds,
            "evidence": None if self.evidence is None else asdict(self.evidence),
            "steps": [attempt.to_dict() for attempt in self.attempts],
            "results": [to_dict(self.report, self.folder)],
        }


def table_of(attempts: Sequence[Attempt], metric: Metric, chosen: str) -> Table:
    """Return a row for each step: its figure on the validation data, its seconds, and why it was tried, skipped or chosen."""
    columns = (
        Column("step"), Column(metric.heading, right=True), Column("to float", right=True), Column("95 % interval", right=True),
        Column("seconds", right=True), Column("why", prose=True),
    )  # fmt: skip
    rows = tuple(_row(a, metric, a.step == chosen) for a in attempts)
    styles: tuple[Style, ...] = tuple("good" if a.step == chosen else "" for a in attempts)
    return Table(columns, rows, "steps, figures on the validation data", styles)


def _row(a: Attempt, metric: Metric, chosen: bool) -> tuple[str, ...]:
    name = f"{a.step} (chosen)" if chosen else a.step
    if a.outcome != "tried" or a.figures is None:
        return name, "", "", "", f"{a.seconds:.1f}" if a.outcome == "failed" else "", f"{a.outcome}: {a.why}"
    end = {"reached": "the goal is reached", "likely": "the goal is reached, as far as they show"}
    went = end.get(
        a.verdict or "", "it went on: the loss is beyond the limit" if a.verdict == "missed" else "it went on: not sure"
    )
    f = a.figures
    shown = lambda value, sign="": metric.shown(value, sign).removesuffix(metric.unit)  # noqa: E731
    interval = "" if f.low is None or f.high is None else f"{shown(f.low, '+')} to {shown(f.high, '+')}"
    return name, shown(f.score), shown(f.delta, "+"), interval, f"{a.seconds:.1f}", f"{a.why}; {went}"


def journal_page(result: Automatic) -> str:
    """Return the journal as Markdown, for a person."""
    table = result.table()
    lines = [
        f"# What qat auto tried: {result.report.dataset}, {result.report.framework}", "",
        f"Goal: {result.wanted}, in {result.goal.budget:.0f} s. It took {result.seconds:.0f} s.", "",
        "| " + " | ".join(c.title for c in table.columns) + " |",
        "|" + "|".join("---:" if c.right else "---" for c in table.columns) + "|",
        *("| " + " | ".join(row) + " |" for row in table.rows), "",
        f"Figures on {result.chosen.figures.samples if result.chosen.figures else 0:,} validation samples.", "",
    ]  # fmt: skip
    if result.evidence is not None:
        lines += [f"After the first step: {result.evidence.said()}.", ""]
    tried = {a.step for a in result.attempts if a.outcome == "tried"}
    lines += [f"- {s.name}: {s.does}{f' ({s.cost})' if s.cost else ''}" for s in STEPS if s.name in tried]
    return "\n".join([*lines, "", result.report.decision, ""])


def decision_of(result: Automatic, found: Figures, finest: float, notes: Sequence[str]) -> str:
    """Return the decision: the chosen step, its figures on the test data, and whether they reach the goal.

    Args:
        result: all but the decision.
        found: the chosen artifact's figures on the test data.
        finest: the loss that the test data cannot exclude.
        notes: further sentences, without a full stop.
    """
    metric, chosen = result.metric, result.chosen
    what = next(step.does for step in STEPS if step.name == chosen.step)
    trained = chosen.choices is not None and chosen.choices.training != "none"
    head = ("QAT is needed: " if trained else "PTQ is enough: ") if result.reached else "No step reached the goal: the best is "
    _, said = result.goal.judged(found, metric, finest)
    figures = f"{metric.title or metric.name} {metric.shown(found.score)} on {found.samples:,} test samples, {said}"
    return ". ".join([f"{head}{chosen.step} ({what}) has {figures}", *notes]) + "."

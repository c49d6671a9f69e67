"""The result of mixed precision: the points of the Pareto front, predicted and measured, and the one that keeps the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.analysis.sensitivity.judge import Score
from qat.display.page import Block, Displayed, Page, Whole
from qat.display.table import Column, Style, Table
from qat.planning.recipe import Recipe
from qat.report.entry import Entry
from qat.report.report import Report

from .network import shares
from .problem import Option, Totals

#: The words of what is minimized.
UNITS = {"size": "bytes", "latency": "ms"}


@dataclass(frozen=True, repr=False)
class Point(Displayed):
    """A point of the front: an assignment that was built.

    Attributes:
        name: by which files and tables call it.
        assignment: the choice of each layer.
        predicted: the sum of the layers' losses, the bytes of their weights, and the milliseconds of their kernels and of the
            conversions between them.
        recipe: that builds it; layers which it does not name follow its other rules.
        path: of the recipe's YAML file.
        measured: the artifact in its runtime: metrics, bytes of the file, latency, and its distance to the prepared model.
        score: the loss and the drop of the artifact in its runtime, in the units of the predicted ones
            (:class:`qat.analysis.sensitivity.judge.Score`).
    """

    name: str
    assignment: Mapping[str, str]
    predicted: Totals
    recipe: Recipe
    path: Path
    measured: Entry
    score: Score

    @property
    def drop(self) -> float:
        """How much worse the first metric is than float's.

        In percentage points where its unit is a percent, else in percent of float's value. Without labels float's own answers are
        the right ones.
        """
        return self.score.drop

    def __repr__(self) -> str:
        return f"Point({self.name}: {shares(self.assignment)})"

    def page(self) -> Page:
        """Return the choice of each layer."""
        return Page((Table((Column("layer"), Column("precision")), tuple(self.assignment.items()), self.name),))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "name": self.name,
            "assignment": dict(self.assignment),
            "predicted": vars(self.predicted),
            "recipe": str(self.path),
            "artifact": str(self.measured.path),
            "bytes": self.measured.bytes,
            "ms": self.measured.latency_p50,
            "loss": self.score.loss,
            "drop": self.drop,
            "drop_low": self.score.drop_low,
            "drop_high": self.score.drop_high,
            "metrics": dict(self.measured.metrics),
            "parity": None if self.measured.parity is None else self.measured.parity.to_dict(),
        }


@dataclass(frozen=True, repr=False)
class MixedPrecision(Displayed):
    """Points from the cheapest to the one of least loss, and what they were chosen from.

    Attributes:
        minimized: ``size`` or ``latency``.
        target: the runtime's name.
        options: every choice of every layer: its loss alone, the bytes of its weights, its milliseconds.
        points: that were built, the cheapest first.
        uniform: the point that gives every layer the base recipe's precision.
        max_drop: the budget of the drop; None without one.
        report: the comparison of all files with the float file.
        trained_by: the command that trains a point, before ``--recipe``.
    """

    minimized: str
    target: str
    options: tuple[Option, ...]
    points: tuple[Point, ...]
    uniform: Point | None
    max_drop: float | None
    report: Report
    trained_by: str = "qat run CONFIG"

    @property
    def best(self) -> Point | None:
        """The cheapest point within the budget, by what was measured; without a budget the point of the least drop."""
        if self.max_drop is None:
            return min(self.points, key=lambda p: p.drop)
        return next((p for p in self.points if p.drop <= self.max_drop), None)

    def __repr__(self) -> str:
        return f"MixedPrecision({self.target}: {len(self.points)} points, best {self.best!r})"

    def decision(self) -> str:
        """Return what follows, in one sentence."""
        best = self.best
        if best is None:
            nearest = min(self.points, key=lambda p: p.drop)
            return (
                f"No point keeps a drop of {self.max_drop:g}: the nearest, {nearest.name}, drops {nearest.drop:.2f}. Train it "
                f"({self.trained_by} --recipe {nearest.path}), or allow other choices."
            )
        budget = "of the least drop" if self.max_drop is None else f"the cheapest within a drop of {self.max_drop:g}"
        return f"{best.name} is {budget}: {best.drop:+.2f} at {best.measured.bytes:,} bytes ({shares(best.assignment)})."

    def page(self) -> Page:
        """Return a row for each point, and below them the decision and the next command."""
        blocks: tuple[Block, ...] = (self.table(), "", self.decision())
        if self.best is not None:
            blocks += (Whole(f"  {self.trained_by} --recipe {self.best.path} trains it"),)
        return Page((*blocks, _MEANING))

    def table(self) -> Table:
        """Return a row for each point: what was predicted and measured."""
        titles = ("point", "drop", "loss", "predicted", "KiB", "weights KiB", "ms", "kernels ms", "off, LSB")
        columns = (*(Column(t, right=i > 0) for i, t in enumerate(titles)), Column("layers", prose=True))
        shown = [*self.points, *([self.uniform] if self.uniform is not None and self.uniform not in self.points else [])]
        styles: tuple[Style, ...] = tuple("good" if p is self.best else "reference" if p is self.uniform else "" for p in shown)
        return Table(columns, tuple(map(_row, shown)), self._title(), styles)

    def _title(self) -> str:
        return f"mixed precision for {self.target}, least {self.minimized}, {self.report.n_eval:,} samples"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "minimized": self.minimized,
            "target": self.target,
            "max_drop": self.max_drop,
            "best": None if self.best is None else self.best.name,
            "decision": self.decision(),
            "points": [point.to_dict() for point in self.points],
            "uniform": None if self.uniform is None else self.uniform.to_dict(),
            "options": [vars(option) for option in self.options],
        }


_MEANING = (
    "drop: of the metric against float; loss: of the outputs against float's, 0 to 1; predicted: the sum of the layers' losses; "
    "weights and kernels: the predicted bytes and milliseconds, KiB and ms: those of the file; off: the file against its "
    "prepared model"
)


def _row(point: Point) -> tuple[str, ...]:
    measured, predicted = point.measured, point.predicted
    return (
        point.name, f"{point.drop:+.2f}", f"{point.score.loss:.2g}", f"{predicted.loss:.2g}", f"{measured.bytes / 1024:,.1f}",
        f"{predicted.bytes / 1024:,.1f}", "" if measured.latency_p50 is None else f"{measured.latency_p50:.3f}",
        f"{predicted.ms:.3f}" if predicted.ms else "", "" if measured.parity is None else f"{measured.parity.mean_lsb:.2f}",
        shares(point.assignment),
    )  # fmt: skip

"""The record of a fine-tuning run: its epochs and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qat.display.page import Displayed, Page
from qat.display.table import Column, Style, Table

from .epoch import Epoch
from .metrics import METRICS
from .options import TrainingOptions


@dataclass(frozen=True, repr=False)
class History(Displayed):
    """The record of a finished run.

    Attributes:
        epochs: in order.
        steps: batches trained on, those before a resume among them.
        seconds: the time that this process took.
        best_epoch: the number of the epoch whose weights the model holds; 0 where it is as it was before training.
        options: by which the run was made.
        before: without labels, the metrics before the first step.
        losses: without labels, the name of each output's loss.
        learning_rate: the peak.
        trials: the learning rates that were tried, and the distance from the teacher that each left.
    """

    epochs: tuple[Epoch, ...]
    steps: int
    seconds: float
    best_epoch: int
    options: TrainingOptions
    before: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    learning_rate: float | None = None
    trials: Mapping[float, float] = field(default_factory=dict)

    @property
    def best(self) -> Mapping[str, float]:
        """The metrics of the weights that the model holds."""
        return next((epoch.metrics for epoch in self.epochs if epoch.number == self.best_epoch), self.before)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        epochs = [{**vars(e), "metrics": dict(e.metrics), "artifact": dict(e.artifact)} for e in self.epochs]
        return {"best_epoch": self.best_epoch, "steps": self.steps, "epochs": epochs}

    def __repr__(self) -> str:
        return f"History({self._summary()})"

    def page(self) -> Page:
        """Return one row an epoch, the best one marked."""
        metrics = tuple(dict.fromkeys(name for values in (self.before, *(e.metrics for e in self.epochs)) for name in values))
        artifact = tuple(dict.fromkeys(name for epoch in self.epochs for name in epoch.artifact))
        titles = ("loss", *map(_heading, metrics), *(f"artifact {_heading(name)}" for name in artifact))
        start = (
            f"before{' (best)' if self.best_epoch == 0 else ''}",
            "",
            *(_shown(name, self.before.get(name)) for name in metrics),
        )
        rows = [(*start, *("" for _ in artifact))] if self.before else []
        for epoch in self.epochs:
            best = f"{epoch.number} (best)" if epoch.number == self.best_epoch else str(epoch.number)
            values = [_shown(name, epoch.metrics.get(name)) for name in metrics]
            rows.append((best, f"{epoch.loss:.4g}", *values, *(_shown(name, epoch.artifact.get(name)) for name in artifact)))
        numbers = (*((0,) if self.before else ()), *(epoch.number for epoch in self.epochs))
        styles: tuple[Style, ...] = tuple("good" if number == self.best_epoch else "" for number in numbers)
        columns = (Column("epoch"), *(Column(title, right=True) for title in titles))
        return Page((Table(columns, tuple(rows), self._summary(), styles),))

    def _summary(self) -> str:
        name = next(iter(self.best), None)
        reached = "" if name is None else f", {_heading(name)} {_shown(name, self.best[name])}"
        epochs = f"{len(self.epochs)} epoch{'' if len(self.epochs) == 1 else 's'}"
        taught = f" by {', '.join(f'{loss} of {output}' for output, loss in self.losses.items())}" if self.losses else ""
        return f"{epochs}{taught}, {self.steps:,} steps, {self.seconds:.1f} s; the best is epoch {self.best_epoch}{reached}"


def _heading(name: str) -> str:
    return METRICS[name].heading if name in METRICS else name


def _shown(name: str, value: float | None) -> str:
    """Return a metric's value, its unit left to the heading."""
    if value is None:
        return "–"
    return METRICS[name].shown(value).removesuffix(METRICS[name].unit) if name in METRICS else f"{value:.4g}"

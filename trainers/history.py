"""The record of a fine-tuning run: its epochs and its options."""

from __future__ import annotations

from dataclasses import dataclass

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
        best_epoch: the number of the epoch whose weights the model holds.
        options: by which the run was made.
    """

    epochs: tuple[Epoch, ...]
    steps: int
    seconds: float
    best_epoch: int
    options: TrainingOptions

    def __repr__(self) -> str:
        return f"History({self._summary()})"

    def page(self) -> Page:
        """Return one row an epoch, the best one marked."""
        metrics = tuple(dict.fromkeys(name for epoch in self.epochs for name in epoch.metrics))
        artifact = tuple(dict.fromkeys(name for epoch in self.epochs for name in epoch.artifact))
        titles = ("loss", *map(_heading, metrics), *(f"artifact {_heading(name)}" for name in artifact))
        rows = []
        for epoch in self.epochs:
            best = f"{epoch.number} (best)" if epoch.number == self.best_epoch else str(epoch.number)
            values = [_shown(name, epoch.metrics.get(name)) for name in metrics]
            rows.append((best, f"{epoch.loss:.4g}", *values, *(_shown(name, epoch.artifact.get(name)) for name in artifact)))
        styles: tuple[Style, ...] = tuple("good" if epoch.number == self.best_epoch else "" for epoch in self.epochs)
        columns = (Column("epoch"), *(Column(title, right=True) for title in titles))
        return Page((Table(columns, tuple(rows), self._summary(), styles),))

    def _summary(self) -> str:
        best = next((epoch for epoch in self.epochs if epoch.number == self.best_epoch), None)
        name = next(iter(best.metrics), None) if best is not None else None
        reached = "" if best is None or name is None else f", {_heading(name)} {_shown(name, best.metrics[name])}"
        epochs = f"{len(self.epochs)} epoch{'' if len(self.epochs) == 1 else 's'}"
        return f"{epochs}, {self.steps:,} steps, {self.seconds:.1f} s; the best is epoch {self.best_epoch}{reached}"


def _heading(name: str) -> str:
    return METRICS[name].heading if name in METRICS else name


def _shown(name: str, value: float | None) -> str:
    """Return a metric's value, its unit left to the heading."""
    if value is None:
        return "–"
    return METRICS[name].shown(value).removesuffix(METRICS[name].unit) if name in METRICS else f"{value:.4g}"

"""The report of a comparison: the figures of all files, what follows from them, and how a person sees both."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qat.display.page import Displayed, Page
from qat.display.table import Column, Style, Table
from qat.system.atomic_files import refuse_existing
from qat.trainers.metric import Metric
from qat.trainers.metrics import METRICS

from .columns import cells_of, columns_of
from .entry import Entry
from .html.plots import Histogram
from .samples import ComparedSample
from .story import Story

#: The page that explains the figures, in the repository and on the documentation's site.
WORDS = "docs/words.md"

#: How much longer than float a file takes before that is more than the noise of the times.
_NOISE = 1.05

#: How the rows of some kinds are drawn.
_STYLES: dict[str, Style] = {"qat": "good", "float": "reference", "control": "reference"}


@dataclass(frozen=True, repr=False)
class Report(Displayed):
    """A comparison of files on the same data.

    Attributes:
        framework, dataset: their names.
        n_eval: the number of samples.
        entries: in the order given.
        decision: one sentence: whether PTQ is enough, or QAT is needed, in which metric, and the figures that say so.
        reference: the name of the entry that the others are held against.
        against_float: whether the reference is a float model; else it is the first entry that runs.
        measured: the metrics that the table shows, the one that decides first; empty where the data has no labels or no metric
            fits them: only distances to the reference are known then.
        examined: the name of the entry that ``samples`` are of: the trained file, else a PTQ one; empty without any.
        samples: a dozen: those that the examined file answers otherwise than the reference first, then by drift and error.
        errors: how the examined file's outputs differ from the reference's; None without both.
        story: what the maker of the comparison knows besides: its training, its plan, what it left out.
    """

    framework: str
    dataset: str
    n_eval: int
    entries: tuple[Entry, ...]
    decision: str
    reference: str = ""
    against_float: bool = True
    measured: tuple[Metric, ...] = (METRICS["top1"],)
    examined: str = ""
    samples: tuple[ComparedSample, ...] = ()
    errors: Histogram | None = None
    story: Story = field(default_factory=Story)

    @property
    def metric(self) -> Metric | None:
        """The metric that decides: the first that is held against labels."""
        return next((m for m in self.measured if not m.to_float), None)

    @property
    def title(self) -> str:
        """The data, the framework, and the number of samples."""
        return ", ".join(part for part in (self.dataset, self.framework, f"{self.n_eval:,} samples") if part)

    def __repr__(self) -> str:
        return f"Report({self.title}: {len(self.entries)} entries)"

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write ``report.html`` for people, ``summary.json`` and ``summary.md`` with the same figures, and the plots as PNGs.

        Args:
            folder: is made where it does not exist.
            overwrite: whether an earlier report there may be replaced.

        Returns:
            The path of ``report.html``.

        Raises:
            ExportError: there is a report, or a file cannot be written.
        """
        from .render import write_report

        page = Path(folder) / "report.html"
        if not overwrite:
            refuse_existing(page, page.with_name("summary.json"))
        write_report([self], page.parent)
        return page

    def rows(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return the titles of the table's columns, and a row of texts for each entry."""
        columns = columns_of(self.entries, self.measured, self.against_float)
        return [title for title, _ in columns], [cells_of(columns, e) for e in self.entries]

    def sentences(self) -> list[str]:
        """Return what stands below the table: the tools that failed, the decision, and what the figures do not say."""
        failures = (f"{e.name} failed: {e.error}" for e in self.entries if e.error is not None)
        return [*failures, *self._caveats(), self.decision, *self._slower(), *self._not_said()]

    def page(self) -> Page:
        """Return the table, and the decision below it."""
        titles, rows = self.rows()
        columns = tuple(Column(title, right=index > 0) for index, title in enumerate(titles))
        table = Table(columns, tuple(rows), self.title, tuple(_STYLES.get(e.kind, "") for e in self.entries))
        return Page((table, "", *self.sentences(), f"The words: {WORDS}"))

    def _caveats(self) -> list[str]:
        if self.against_float:
            return []
        return [f"No float artifact among these: Δ, p, agreement, drift and SQNR are against the first, {self.reference}."]

    def _slower(self) -> list[str]:
        """Return what to do about files of this toolkit that took longer than the float file; nothing where none did."""
        timed = [e for e in self.entries if e.path is not None and e.latency_p50 is not None]
        base = next((e for e in timed if e.kind == "float"), None)
        if base is None or base.path is None or not base.latency_p50:
            return []
        limit, suffix = _NOISE * base.latency_p50, base.path.suffix
        ours = [e for e in timed if e.tool == "qat" and e.kind in ("ptq", "qat") and e.path and e.path.suffix == suffix]
        late = [e for e in ours if (e.latency_p50 or 0.0) > limit]
        if not late:
            return []
        times = ", ".join(f"{e.name} {e.latency_p50:.3g} ms" for e in late)
        return [
            f"Slower than float on this machine ({base.name} {base.latency_p50:.3g} ms): {times}. With `prefer: speed` in the "
            "recipe operators stay float where that is quicker; a file made so that is slower still has too few channels to gain."
        ]

    def _not_said(self) -> list[str]:
        """Return what files that equal their models do not say; nothing where there is none."""
        if not any(e.parity is not None and e.parity.exact == 1.0 for e in self.entries):
            return []
        look = f"{self.metric.title or self.metric.name} and agreement" if self.metric is not None else "SQNR and agreement"
        return [
            f"100 % exact: equal to the model you trained, which does not say that the model is good; look at {look} with float."
        ]

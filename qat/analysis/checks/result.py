"""The result of the checks: a row each, for a person, and the same as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qat.display.page import Displayed, Page
from qat.display.table import Column, Style, Table

log = logging.getLogger("qat")

Status = Literal["passed", "warned", "failed", "not applicable"]

#: How the rows are drawn.
STYLES: dict[Status, Style] = {"passed": "", "warned": "notice", "failed": "bad", "not applicable": "reference"}


@dataclass(frozen=True)
class Check:
    """A check, and how it ended.

    Attributes:
        name: of the check; a stable key.
        measures: what it measures.
        status: ``passed``, ``warned``, ``failed``, or ``not applicable``, where ``figure`` says why.
        figure: what was measured, in words.
        threshold: what would have passed.
        next_step: what to do; empty where there is nothing to do.
        value: the figure as a number; None where it is none.
    """

    name: str
    measures: str
    status: Status
    figure: str
    threshold: str = ""
    next_step: str = ""
    value: float | None = None

    def sentence(self) -> str:
        """Return the check as a notice: what was found, and the next step."""
        return f"{self.figure}: {self.next_step}" if self.next_step else self.figure


@dataclass(frozen=True, repr=False)
class DataChecks(Displayed):
    """The checks of calibration data.

    Attributes:
        samples: how many were checked.
        reference: how many they were held against; 0 without a reference.
        checks: in the order in which they are shown.
    """

    samples: int
    reference: int
    checks: tuple[Check, ...]

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __repr__(self) -> str:
        return f"DataChecks({self.line()})"

    @property
    def passed(self) -> bool:
        """Whether no check warned or failed."""
        return not any(True for _ in self.not_fine())

    def not_fine(self) -> Iterator[Check]:
        """Yield the checks that warned or failed."""
        return (check for check in self.checks if check.status in ("warned", "failed"))

    def exit_code(self, strict: bool = False) -> int:
        """Return 2 where a check failed, and with ``strict`` also where one warned; else 0."""
        worst = {check.status for check in self.checks}
        return 2 if "failed" in worst or (strict and "warned" in worst) else 0

    def line(self) -> str:
        """Return the result in one line."""
        counts = [(sum(check.status == status for check in self.checks), status) for status in ("failed", "warned", "passed")]
        against = f", held against {self.reference:,}" if self.reference else ""
        return f"{self.samples:,} calibration samples{against}: {', '.join(f'{n} {status}' for n, status in counts if n)}"

    def log(self) -> None:
        """Log what warned or failed, each in one sentence, and at level INFO how many checks passed."""
        log.info("%s", self.line())
        for check in self.not_fine():
            log.warning("%s", check.sentence())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"samples": self.samples, "reference": self.reference, "checks": [asdict(check) for check in self.checks]}

    def page(self) -> Page:
        """Return a row for each check, and below them what to do."""
        columns = (Column("check"), Column(""), Column("found", prose=True), Column("passes", prose=True))
        rows = tuple((check.name, check.status, check.figure, check.threshold) for check in self.checks)
        table = Table(columns, rows, self.line(), tuple(STYLES[check.status] for check in self.checks))
        steps = tuple(f"{check.name}: {check.next_step}" for check in self.checks if check.next_step)
        return Page((table, *(("", *steps) if steps else ())))

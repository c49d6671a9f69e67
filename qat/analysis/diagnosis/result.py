"""A diagnosis: where the error arises, why, and what mends it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from qat.display.page import Block, Displayed, Page, Whole
from qat.display.table import Column, Style, Table, facts

from .causes import HEALTHY
from .finding import Finding
from .measured import Facts, StepFacts

#: By how much the SQNR falls at a drop, in dB, and the most rows of a page.
_DROP, _ROWS = 6.0, 16


@dataclass(frozen=True)
class Tried:
    """What a remedy brought, on samples that did not calibrate it.

    Attributes:
        says: the remedy.
        path: of the file that was made; None where it was not kept.
        before, after: SQNR of the outputs of the file that was given, and of the new one, in dB.
        same_before, same_after: answers that are float's, of ``samples``; None of models without classes.
        samples: how many were run.
    """

    says: str
    path: str | None
    before: float
    after: float
    same_before: int | None
    same_after: int | None
    samples: int

    def line(self) -> str:
        """Return what it brought, in words."""
        said = f"tried: {self.says}: {self.before:.1f} dB became {self.after:.1f} dB on {self.samples} samples"
        if self.same_before is None or self.same_after is None:
            return said
        return f"{said}, {self.same_before} answers like float's became {self.same_after}"


@dataclass(frozen=True, repr=False)
class Diagnosis(Displayed):
    """What is wrong with a quantized file.

    Attributes:
        float_path, quantized_path: the two files.
        data: the samples, in words.
        data_option: the samples as a command takes them; empty where they were arrays.
        facts: everything that was measured.
        findings: the causes, the one that explains most of the error first; empty of a file without a fault.
        tried: what the first cause's remedy brought; None where it was not tried.
    """

    float_path: str
    quantized_path: str
    data: str
    data_option: str
    facts: Facts
    findings: tuple[Finding, ...]
    tried: Tried | None = None

    @property
    def cause(self) -> str:
        """The name of the first cause; empty where nothing is wrong."""
        return self.findings[0].cause if self.findings else ""

    @property
    def first_drop(self) -> StepFacts | None:
        """The first step that is not close to float and 6 dB further from it than all that it reads; None without one."""
        by_name = {step.name: step for step in self.facts.steps}
        for step in self.facts.steps:
            before = min((by_name[name].sqnr for name in step.inputs), default=float("inf"))
            if step.sqnr < HEALTHY and step.sqnr < before - _DROP:
                return step
        return None

    def verdict(self) -> str:
        """Return the diagnosis in one sentence."""
        if self.findings:
            first = self.findings[0]
            share = f", which makes {first.share:.0%} of the error" if first.share else ""
            return f"{first.title}{share}: {first.evidence.says}"
        if self.facts.spread_sqnr >= HEALTHY:
            return "nothing is wrong: the outputs are as close to float as 8 bits come"
        worst = max(self.facts.steps, key=lambda step: step.share or 0.0)
        return (
            f"no fault is found: rounding makes the error, all over the network; '{worst.name}' has the largest share "
            f"({worst.share or 0:.0%}). Where that is too much, training (qat run) mends it, or more bits for the largest shares"
        )

    def __repr__(self) -> str:
        return f"Diagnosis({self.quantized_path}: {self.cause or 'nothing wrong'}, {self.facts.sqnr:.1f} dB)"

    def next_step(self) -> tuple[str, str]:
        """Return the advice and its command line; both are empty where there is none."""
        if not self.findings:
            return "", ""
        remedy = self.findings[0].remedy
        return remedy.says, remedy.command(self.float_path, self.data_option or "DATA")

    def page(self) -> Page:
        """Return the verdict, what mends it, and where the error arises."""
        f, drop, (advice, command) = self.facts, self.first_drop, self.next_step()
        same = "" if f.same is None else f"{f.same} of {f.samples} samples ({100 * f.same / f.samples:.1f} %)"
        blocks: list[Block] = [
            facts(
                ("diagnosis", self.verdict()), ("next step", advice), ("also", "; ".join(x.title for x in self.findings[1:])),
                ("outputs against float", f"{f.sqnr:.1f} dB"), ("same answers as float", same), ("data", self.data),
                ("first drop", "" if drop is None else f"'{drop.name}', {drop.sqnr:.1f} dB"),
                ("not in the quantized file", ", ".join(f.unmatched)),
            )
        ]  # fmt: skip
        if command:
            blocks.append(Whole(command))
        if self.tried is not None:
            blocks.append(self.tried.line())
        return Page((*blocks, "", self._table()))

    @staticmethod
    def columns() -> tuple[Column, ...]:
        """Return the columns of a table of steps."""
        titles = ("SQNR", "alone", "share of error", "clipped")
        return (Column("step"), Column("kind"), *(Column(title, right=True) for title in titles))

    def _table(self) -> Table:
        chosen = sorted(self.facts.steps, key=lambda step: -(step.share or 0.0))[:_ROWS]
        shown = [step for step in self.facts.steps if step in chosen]
        guilty = set(self.findings[0].evidence.steps) if self.findings else set()
        styles: tuple[Style, ...] = tuple("bad" if step.name in guilty else "" for step in shown)
        more = len(self.facts.steps) - len(shown)
        title = "where the error arises" + (f" ({more} steps with smaller shares are not shown)" if more else "")
        return Table(self.columns(), tuple(row_of(step) for step in shown), title, styles)

    def to_dict(self) -> dict[str, object]:
        """Return JSON-ready values; of a ratio without any noise None."""
        found: dict[str, object] = _finite(self._values())
        return found

    def _values(self) -> dict[str, object]:
        drop = self.first_drop
        advice, command = self.next_step()
        return {
            "float": self.float_path, "quantized": self.quantized_path, "data": self.data, "cause": self.cause or None,
            "says": self.verdict(), "next_step": advice or None, "command": command or None,
            "findings": [finding.to_dict() for finding in self.findings], "first_drop": None if drop is None else drop.name,
            "sqnr": self.facts.sqnr, "spread_sqnr": self.facts.spread_sqnr,
            "samples": self.facts.samples, "same": self.facts.same,
            "unmatched": list(self.facts.unmatched), "steps": [asdict(step) for step in self.facts.steps],
            "tried": None if self.tried is None else asdict(self.tried),
        }  # fmt: skip


def _finite(value: Any) -> Any:
    """Return a value with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def row_of(step: StepFacts) -> tuple[str, ...]:
    """Return the row of a step in a table with :meth:`Diagnosis.columns`."""
    clipped = f"{step.values.clipped:.2%}" if step.values.clipped >= 5e-5 else ""
    return (step.name, step.kind, _decibel(step.sqnr), _decibel(step.own_sqnr), f"{step.share or 0:.1%}", clipped)


def _decibel(value: float) -> str:
    return "exact" if value == float("inf") else f"{value:.1f} dB"

"""How a check ends, before it has its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .result import Status
from .sides import Sides


class Verdict(NamedTuple):
    """The status of a check, its figure in words and as a number, what would have passed, and the next step."""

    status: Status
    figure: str
    threshold: str = ""
    next_step: str = ""
    value: float | None = None


#: From the one that says most to the one that says least.
_ORDER: tuple[Status, ...] = ("failed", "warned", "passed", "not applicable")


def worst_of(verdicts: Iterable[Verdict], otherwise: str) -> Verdict:
    """Return the verdict of the input that ends worst; of no input ``not applicable``, with the reason ``otherwise``."""
    found = sorted(verdicts, key=lambda verdict: _ORDER.index(verdict.status))
    return found[0] if found else Verdict("not applicable", otherwise)


def of_input(sides: Sides, name: str) -> str:
    """Return how a figure names an input: not at all where there is one."""
    return f" of '{name}'" if len(sides.samples.inputs) > 1 else ""

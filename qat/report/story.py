"""What the maker of a comparison knows besides its figures: for the page that people look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .html.page import Section


@dataclass(frozen=True)
class Story:
    """How the files of a comparison came about.

    Attributes:
        facts: named facts: the recipe, the target.
        sections: training curves, the plan, calibration.
        not_run: what was left out, each with the reason.
        classes: the names of the classes, by number.
        document: the same figures, JSON-ready: they stand beside those of the comparison in summary.json.
    """

    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()
    not_run: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    document: Mapping[str, object] = field(default_factory=dict)

    def class_name(self, number: int) -> str:
        """Return the name of a class; its number where it has none."""
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)

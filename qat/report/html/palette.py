"""The colours and signs of plots: one list for a light page, one for a dark one, and which group has which."""

from __future__ import annotations

from collections.abc import Sequence

#: By place; each stands out from its ground by 4.5 to 1 at least (WCAG AA). A page has them as ``--c0``, ``--c1``, ...
LIGHT = ("#1d5fa8", "#177245", "#5f6773", "#0d7380", "#a34a07", "#6d3fc0", "#b01657", "#7a5c00")
DARK = ("#7fb4f2", "#5ed29a", "#aab3c0", "#57c9d6", "#f2a65e", "#bda3f8", "#f58fb5", "#d9b640")

#: The groups that look the same on every page.
_KNOWN = {"float": 0, "qat": 1, "ptq": 2, "control": 3}

#: The signs of points, by place: plotly's name, matplotlib's, and the letter that a legend shows.
SIGNS = (
    ("circle", "o", "●"), ("square", "s", "■"), ("diamond", "D", "◆"), ("triangle-up", "^", "▲"), ("triangle-down", "v", "▼"),
    ("cross", "P", "✚"), ("x", "X", "✖"), ("star", "*", "★"), ("triangle-left", "<", "◀"), ("triangle-right", ">", "▶"),
)  # fmt: skip
#: The dashes of lines: plotly's name, matplotlib's, and what a legend shows.
DASHES = (("solid", "-", "━"), ("dash", "--", "╍"), ("dot", ":", "┉"), ("dashdot", "-.", "┅"))


def places_of(groups: Sequence[str]) -> list[int]:
    """Return the place of each group's colour: known groups have theirs, the others those that are left, in order."""
    known = {name: _KNOWN[name.lower()] for name in groups if name.lower() in _KNOWN}
    left = [place for place in range(len(LIGHT)) if place not in known.values()]
    others = [name for name in dict.fromkeys(groups) if name not in known]
    chosen = known | {name: left[i % len(left)] for i, name in enumerate(others)}
    return [chosen[name] for name in groups]

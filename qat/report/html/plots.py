"""Plots as plain values: a small closed set, drawn by plotly in a page and by matplotlib as a PNG, both from the same values.

Each plot says its figures in words too, for whoever hears the page, and as a table, for whoever wants to copy them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from qat.display.table import Column, Table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: More figures than these are a table's matter: the words then say the ends alone.
_MOST_IN_WORDS = 12


@dataclass(frozen=True)
class Reference:
    """A line through a plot that its values are held against: float's accuracy, a threshold."""

    name: str
    value: float


@dataclass(frozen=True)
class Point:
    """A point of :class:`Points`.

    Attributes:
        name: what the point stands for.
        x, y: its place.
        low, high: the interval of ``y``; None where it has none.
        group: of which colour and sign follow; empty for a colour of its own.
    """

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Points:
    """Points with intervals: accuracy against size.

    Attributes:
        title: what is seen.
        x_label, y_label: of the axes, with their units.
        points: in any order.
        x_form, y_form: how a figure is written (``".2f"``).
        reference: a level of ``y``.
        joined: the groups whose points a line joins, from left to right: a Pareto front.
        log_x: whether the axis of ``x`` is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    x_form: str = ",.0f"
    y_form: str = ".2f"
    reference: Reference | None = None
    joined: tuple[str, ...] = ()
    log_x: bool = False

    def table(self) -> Table:
        """Return the figures."""
        rows = ((p.name, format(p.x, self.x_form), format(p.y, self.y_form), _interval(p, self.y_form)) for p in self.points)
        return _table(("", self.x_label, self.y_label, "95 % interval"), rows)

    def words(self) -> str:
        """Return the figures in words."""
        each = [
            f"{p.name} {format(p.y, self.y_form)} at {format(p.x, self.x_form)}{_in_words(p, self.y_form)}" for p in self.points
        ]
        return _said(f"{self.y_label} against {self.x_label}", each, [p.y for p in self.points], self.y_form)


@dataclass(frozen=True)
class Bar:
    """A bar of :class:`Bars`.

    Attributes:
        name: of its row.
        value: its length.
        low, high: its interval; None where it has none.
        group: of which its colour follows: an entry's kind, an operator's mode.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from zero, from top to bottom; where any has an interval, points on an axis that need not start at zero.

    Attributes:
        title: what is seen.
        label: of the axis of values, with the unit.
        bars: from top to bottom.
        form: how a figure is written.
        reference: a level of the values.
        log: whether the axis is logarithmic.
    """

    title: str
    label: str
    bars: tuple[Bar, ...]
    form: str = ".2f"
    reference: Reference | None = None
    log: bool = False

    @property
    def has_intervals(self) -> bool:
        """Whether any bar has an interval."""
        return any(bar.low is not None for bar in self.bars)

    def table(self) -> Table:
        """Return the figures."""
        titles = ("", self.label, "95 % interval", "group")
        return _table(titles, ((b.name, format(b.value, self.form), _interval(b, self.form), b.group) for b in self.bars))

    def words(self) -> str:
        """Return the figures in words."""
        each = [f"{b.name} {format(b.value, self.form)}{_in_words(b, self.form)}" for b in self.bars]
        return _said(self.label, each, [b.value for b in self.bars], self.form)


@dataclass(frozen=True)
class Line:
    """A line of :class:`Lines`."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Lines:
    """Lines over a common axis: training curves.

    Attributes:
        title: what is seen.
        x_label, y_label: of the axes, with their units.
        lines: each of a colour and a dash of its own.
        form: how a value of ``y`` is written.
        reference: a level of ``y``.
        log: whether the axis of ``y`` is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    form: str = ".4g"
    reference: Reference | None = None
    log: bool = False

    def table(self) -> Table:
        """Return the figures: a row for each place."""
        places = sorted({x for line in self.lines for x in line.x})
        at = [dict(zip(line.x, line.y, strict=True)) for line in self.lines]
        rows = ((f"{x:g}", *(format(a[x], self.form) if x in a else "" for a in at)) for x in places)
        return _table((self.x_label, *(line.name for line in self.lines)), rows)

    def words(self) -> str:
        """Return where each line begins and ends."""
        each = [f"{n.name} from {format(n.y[0], self.form)} to {format(n.y[-1], self.form)}" for n in self.lines if n.y]
        return _said(f"{self.y_label} over {self.x_label}", each, [y for n in self.lines for y in n.y], self.form)


@dataclass(frozen=True)
class Counts:
    """How often values fall between the edges of :class:`Histogram`."""

    name: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Histogram:
    """How often values occur.

    Attributes:
        title: what is seen.
        label: of the values, with the unit.
        edges: of the bins, one more than there are bins.
        series: the counts, drawn over each other.
        form: how an edge is written.
    """

    title: str
    label: str
    edges: tuple[float, ...]
    series: tuple[Counts, ...]
    form: str = ".3g"

    def table(self) -> Table:
        """Return the counts: a row for each bin."""
        bins = [f"{format(a, self.form)} to {format(b, self.form)}" for a, b in zip(self.edges, self.edges[1:], strict=False)]
        rows = ((name, *(f"{s.counts[i]:,}" for s in self.series)) for i, name in enumerate(bins))
        return _table((self.label, *(s.name for s in self.series)), rows)

    def words(self) -> str:
        """Return between which edges most values fall."""
        said = []
        for s in self.series:
            top = max(range(len(s.counts)), key=s.counts.__getitem__)
            low, high = (format(e, self.form) for e in self.edges[top : top + 2])
            said.append(f"of {s.name} most, {s.counts[top]:,} of {sum(s.counts):,}, from {low} to {high}")
        return f"Counts of {self.label}: {'; '.join(said)}."


@dataclass(frozen=True)
class HeatMap:
    """Values by row and column; NaN is left empty.

    Attributes:
        title: what is seen.
        x_labels, y_labels: of the columns, from left to right, and of the rows, from top to bottom.
        values: a row for each of ``y_labels``.
        label: of the values, with the unit.
        form: how a value is written.
    """

    title: str
    x_labels: tuple[str, ...]
    y_labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    label: str = ""
    form: str = ".3g"

    def table(self) -> Table:
        """Return the values."""
        rows = ((n, *(_or_empty(v, self.form) for v in row)) for n, row in zip(self.y_labels, self.values, strict=True))
        return _table((self.label, *self.x_labels), rows)

    def words(self) -> str:
        """Return the least and the greatest value, and where they are."""
        found = [
            (v, x, y)
            for y, row in zip(self.y_labels, self.values, strict=True)
            for x, v in zip(self.x_labels, row, strict=True)
            if not math.isnan(v)
        ]
        if not found:
            return f"{self.label or self.title}: no values."
        ends = (f"{word} {format(v, self.form)} ({y}, {x})" for word, (v, x, y) in (("least", min(found)), ("most", max(found))))
        return f"{self.label or self.title}: {'; '.join(ends)}."


#: Every plot that a page can hold.
Plot: TypeAlias = Points | Bars | Lines | Histogram | HeatMap


def histogram(title: str, label: str, series: Sequence[tuple[str, ArrayLike]], bins: int = 40) -> Histogram:
    """Return a histogram of values in bins of equal width over all series."""
    import numpy as np

    every = np.concatenate([np.asarray(values, np.float64).reshape(-1) for _, values in series])
    edges = np.histogram_bin_edges(every, bins)
    counts = (Counts(name, tuple(int(n) for n in np.histogram(np.asarray(values), edges)[0])) for name, values in series)
    return Histogram(title, label, tuple(float(e) for e in edges), tuple(counts))


def series_of(plot: Points) -> list[tuple[str, tuple[Point, ...]]]:
    """Return the points by the row of the legend that they belong to: their own, or where they are many their group's."""
    if len(plot.points) <= _MOST_IN_WORDS:
        return [(p.name, (p,)) for p in plot.points]
    return [(group, tuple(p for p in plot.points if p.group == group)) for group in groups_of(plot.points)]


def reach_of(item: Point | Bar, value: float) -> tuple[float, float]:
    """Return how far an interval reaches below and above its value; 0 without one."""
    return (0.0, 0.0) if item.low is None or item.high is None else (max(value - item.low, 0.0), max(item.high - value, 0.0))


def groups_of(items: Iterable[Point | Bar]) -> list[str]:
    """Return the groups in the order in which they first occur."""
    return list(dict.fromkeys(item.group for item in items))


def _interval(item: Point | Bar, form: str) -> str:
    return "" if item.low is None or item.high is None else f"{format(item.low, form)} to {format(item.high, form)}"


def _in_words(item: Point | Bar, form: str) -> str:
    shown = _interval(item, form)
    return f" (interval {shown})" if shown else ""


def _or_empty(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _said(what: str, each: Sequence[str], values: Sequence[float], form: str) -> str:
    if len(each) <= _MOST_IN_WORDS:
        return f"{what}: {'; '.join(each) or 'no values'}."
    ends = f"from {format(min(values), form)} to {format(max(values), form)}"
    return f"{what}: {len(each)} values {ends}; the table below has them all."


def _table(titles: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table without the columns that hold nothing."""
    kept = list(rows)
    full = [i for i in range(len(titles)) if i == 0 or any(row[i] for row in kept)]
    columns = tuple(Column(titles[i], right=i > 0) for i in full)
    return Table(columns, tuple(tuple(row[i] for i in full) for row in kept))

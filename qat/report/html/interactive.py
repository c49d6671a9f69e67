"""Plots as plotly draws them in a page: figures as JSON has them, whose colours are names of the page's own.

A colour ``var(--c1)`` is looked up by the page's script, once for the light page and once for the dark one. Every name of a
user's is escaped, since plotly reads a little HTML in its texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap

from qat.display.stream import visible

from .labels import short_lines
from .palette import DASHES, SIGNS, places_of
from .plots import Bars, HeatMap, Histogram, Lines, Plot, Points, Reference, groups_of, reach_of, series_of

#: The letters in a line of an axis' label: what a telephone's width holds.
_LABEL = 26
#: A value as JSON has it.
Json = Mapping[str, object]


@dataclass(frozen=True)
class Key:
    """A row of a legend: the place of its colour, its sign and its name."""

    place: int
    sign: str
    name: str


@dataclass(frozen=True)
class Drawn:
    """A figure of plotly, and the legend that the page shows below it."""

    traces: Sequence[Json]
    layout: Json
    legend: Sequence[Key] = field(default=())

    def document(self) -> Json:
        """Return the figure as JSON has it."""
        return {"data": list(self.traces), "layout": self.layout}


def drawn(plot: Plot) -> Drawn:
    """Return a plot as plotly draws it."""
    draw: Mapping[type, Callable[..., Drawn]] = {
        Points: _points, Bars: _bars, Lines: _lines, Histogram: _histogram, HeatMap: _heat_map,
    }  # fmt: skip
    return draw[type(plot)](plot)


def _text(name: str) -> str:
    return escape(visible(name), quote=False)


def _wrapped(name: str) -> str:
    return "<br>".join(_text(line) for line in short_lines(visible(name)))


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _colour(place: int) -> str:
    return f"var(--c{place})"


def _axis(label: str = "", **options: object) -> Json:
    return {
        "title": {"text": "<br>".join(map(_text, wrap(visible(label), _LABEL))), "standoff": 8}, "automargin": True,
        "gridcolor": "var(--line)", "zeroline": False, "linecolor": "var(--line)", "fixedrange": True, **options,
    }  # fmt: skip


def _scale(log: bool) -> Json:
    return {"type": "log", "dtick": "D2"} if log else {"type": "linear"}


def _layout(height: int, x: Json, y: Json, **options: object) -> Json:
    return {
        "height": height, "margin": {"l": 12, "r": 24, "t": 12, "b": 12}, "xaxis": x, "yaxis": y, "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "dragmode": False, "hovermode": "closest",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--text)"},
        "hoverlabel": {"bgcolor": "var(--raised)", "bordercolor": "var(--line)", "font": {"color": "var(--text)"}}, **options,
    }  # fmt: skip


def _level(reference: Reference | None, axis: str) -> Json:
    """Return the line of a reference, across the plot, as options of a layout."""
    if reference is None:
        return {}
    other = "x" if axis == "y" else "y"
    ends = {f"{axis}0": reference.value, f"{axis}1": reference.value, f"{other}0": 0, f"{other}1": 1}
    line = {"type": "line", f"{other}ref": "paper", **ends, "line": {"color": _colour(0), "width": 1.5, "dash": "dash"}}
    place = {"x": 1, "xref": "paper", "xanchor": "right", "y": reference.value, "yanchor": "bottom"}
    if axis == "x":
        place = {"x": reference.value, "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "bottom"}
    note = {"text": _text(reference.name), "showarrow": False, "font": {"size": 12, "color": _colour(0)}, **place}
    return {"shapes": [line], "annotations": [note]}


def _points(plot: Points) -> Drawn:
    members = series_of(plot)
    places = places_of([points[0].group or points[0].name for _, points in members])
    traces: list[Json] = []
    for group in plot.joined:
        line = sorted((p for p in plot.points if p.group == group), key=lambda p: p.x)
        place = next(place for place, (_, points) in zip(places, members, strict=True) if points[0].group == group)
        traces.append({
            "type": "scatter", "mode": "lines", "x": [p.x for p in line], "y": [p.y for p in line], "hoverinfo": "skip",
            "line": {"color": _colour(place), "width": 1.5},
        })  # fmt: skip
    legend = []
    for index, (place, (name, points)) in enumerate(zip(places, members, strict=True)):
        sign, _, letter = SIGNS[index % len(SIGNS)]
        spread = [reach_of(p, p.y) for p in points]
        traces.append({
            "type": "scatter", "mode": "markers", "name": _text(name), "x": [_number(p.x) for p in points],
            "y": [_number(p.y) for p in points],
            "text": [_text(p.name) for p in points],
            "hovertemplate": f"%{{text}}<br>%{{y:{plot.y_form}}} at %{{x:{plot.x_form}}}<extra></extra>",
            "marker": {"symbol": sign, "size": 11, "color": _colour(place)},
            "error_y": {
                "type": "data", "symmetric": False,
                "array": [above for _, above in spread], "arrayminus": [below for below, _ in spread],
                "visible": any(map(any, spread)), "color": _colour(place), "thickness": 1.5, "width": 4,
            },
        })  # fmt: skip
        if name:
            legend.append(Key(place, letter, name))
    x = _axis(plot.x_label, nticks=7, **_scale(plot.log_x))
    return Drawn(traces, _layout(380, x, _axis(plot.y_label), **_level(plot.reference, "y")), legend)


def _bars(plot: Bars) -> Drawn:
    groups = groups_of(plot.bars)
    places = dict(zip(groups, places_of([g or plot.label for g in groups]), strict=True))
    rows = list(range(len(plot.bars)))
    lines = [_wrapped(bar.name) for bar in plot.bars]
    common = {
        "x": [_number(bar.value) for bar in plot.bars], "y": rows, "orientation": "h",
        "customdata": [_text(bar.name) for bar in plot.bars],
        "hovertemplate": f"%{{customdata}}: %{{x:{plot.form}}}<extra></extra>",
        "text": [format(bar.value, plot.form) for bar in plot.bars], "cliponaxis": False,
    }  # fmt: skip
    colours = [_colour(places[bar.group]) for bar in plot.bars]
    if plot.has_intervals:
        spread = [reach_of(b, b.value) for b in plot.bars]
        ends = {"array": [above for _, above in spread], "arrayminus": [below for below, _ in spread]}
        trace = common | {
            "type": "scatter", "mode": "markers+text", "textposition": "top center", "marker": {"size": 11, "color": colours},
            "error_x": {"type": "data", "symmetric": False, **ends, "color": "var(--muted)", "thickness": 1.5, "width": 4},
        }  # fmt: skip
        del trace["orientation"]
    else:
        trace = common | {"type": "bar", "textposition": "outside", "marker": {"color": colours}}
    tall = 44 if plot.has_intervals else 36 if any("<br>" in line for line in lines) else 26
    y = _axis(tickvals=rows, ticktext=lines, range=[len(rows) - 0.5, -0.5], showgrid=False, ticklabelstandoff=6)
    x = _axis(plot.label, nticks=6, **_scale(plot.log), **_reach(plot))
    legend = [Key(places[group], "■", group) for group in groups if group] if len(groups) > 1 else []
    margin = {"l": 12, "r": 24, "t": 12 if plot.reference is None else 26, "b": 12}
    return Drawn([trace], _layout(tall * len(rows) + 84, x, y, **_level(plot.reference, "x"), margin=margin), legend)


def _reach(plot: Bars) -> Json:
    """Return the range of the axis of bars: with room for the figure behind the longest."""
    values = [v for b in plot.bars for v in (b.value, b.low, b.high) if v is not None and math.isfinite(v)]
    values += [] if plot.reference is None else [plot.reference.value]
    if plot.log or not values:
        return {}
    low, high = (min(values), max(values)) if plot.has_intervals else (min(0.0, *values), max(0.0, *values))
    room = (high - low) or 1.0
    return {"range": [low - (0.18 * room if plot.has_intervals or low < 0 else 0.0), high + 0.18 * room]}


def _lines(plot: Lines) -> Drawn:
    places = places_of([line.name for line in plot.lines])
    traces, legend = [], []
    for index, (place, line) in enumerate(zip(places, plot.lines, strict=True)):
        dash, _, letter = DASHES[index % len(DASHES)]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": _text(line.name),
            "x": list(line.x), "y": [_number(v) for v in line.y],
            "line": {"color": _colour(place), "width": 2, "dash": dash}, "marker": {"size": 6},
            "hovertemplate": f"{_text(line.name)}: %{{y:{plot.form}}} at %{{x}}<extra></extra>",
        })  # fmt: skip
        legend.append(Key(place, letter, line.name))
    y = _axis(plot.y_label, **_scale(plot.log))
    return Drawn(traces, _layout(340, _axis(plot.x_label, nticks=8), y, **_level(plot.reference, "y")), legend)


def _histogram(plot: Histogram) -> Drawn:
    places = places_of([series.name for series in plot.series])
    middles = [(a + b) / 2 for a, b in zip(plot.edges, plot.edges[1:], strict=False)]
    widths = [b - a for a, b in zip(plot.edges, plot.edges[1:], strict=False)]
    traces = [
        {
            "type": "bar", "name": _text(series.name), "x": middles, "y": list(series.counts), "width": widths,
            "opacity": 0.7 if len(plot.series) > 1 else 1.0, "marker": {"color": _colour(place)},
            "hovertemplate": f"{_text(series.name)}: %{{y:,}} near %{{x:{plot.form}}}<extra></extra>",
        }
        for place, series in zip(places, plot.series, strict=True)
    ]  # fmt: skip
    legend = [Key(place, "■", series.name) for place, series in zip(places, plot.series, strict=True)]
    return Drawn(traces, _layout(320, _axis(plot.label, nticks=8), _axis("count"), barmode="overlay"), legend)


def _heat_map(plot: HeatMap) -> Drawn:
    columns, rows = list(range(len(plot.x_labels))), list(range(len(plot.y_labels)))
    few = len(columns) * len(rows) <= 150
    trace = {
        "type": "heatmap", "x": columns, "y": rows, "z": [[_number(v) for v in row] for row in plot.values], "xgap": 1, "ygap": 1,
        "colorscale": [[0, "var(--heat0)"], [0.5, "var(--heat1)"], [1, "var(--heat2)"]],
        "customdata": [[f"{_text(y)}, {_text(x)}" for x in plot.x_labels] for y in plot.y_labels],
        "hovertemplate": f"%{{customdata}}: %{{z:{plot.form}}}<extra></extra>",
        "colorbar": {"title": {"text": _text(plot.label), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        **({"text": [[_cell(v, plot.form) for v in row] for row in plot.values], "texttemplate": "%{text}"} if few else {}),
    }  # fmt: skip
    x = _axis(tickvals=columns, ticktext=[_wrapped(n) for n in plot.x_labels], showgrid=False)
    y = _axis(tickvals=rows, ticktext=[_wrapped(n) for n in plot.y_labels], range=[len(rows) - 0.5, -0.5], showgrid=False)
    return Drawn([trace], _layout(max(280, 26 * len(rows) + 90), x, y))


def _cell(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else ""

"""Plots as PNGs: beside a page, on paper, and where no script runs. Drawn by matplotlib, on white."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qat.display.stream import visible

from .labels import short_lines
from .palette import DASHES, LIGHT, SIGNS, places_of
from .plots import Bars, HeatMap, Histogram, Lines, Plot, Points, Reference, groups_of, reach_of, series_of

_WIDTH, _DPI = 8.0, 120
_INK, _GRID = "#1b1f24", "#d5dae1"


def png_of(plot: Plot) -> bytes:
    """Return a plot as a PNG."""
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    draw: Mapping[type, Callable[..., None]] = {
        Points: _points, Bars: _bars, Lines: _lines, Histogram: _histogram, HeatMap: _heat_map,
    }  # fmt: skip
    # A name of a user's may hold a dollar sign, which is no formula.
    with (
        warnings.catch_warnings(),
        rc_context({"text.parse_math": False, "axes.edgecolor": "#8a929e", "text.color": _INK, "font.size": 10}),
    ):
        warnings.filterwarnings("ignore", message="Glyph")  # of a letter that matplotlib's font lacks: the page has it
        figure = Figure(figsize=(_WIDTH, _height(plot)), dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        axes.set_title(visible(plot.title), loc="left", fontsize=12)
        axes.spines[["top", "right"]].set_visible(False)
        draw[type(plot)](axes, plot)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    out = io.BytesIO()
    # 64 colours hold a plot whole, in a third of the bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()


def _height(plot: Plot) -> float:
    if isinstance(plot, Bars):
        return 0.34 * len(plot.bars) + 1.3
    return max(2.6, 0.3 * len(plot.y_labels) + 1.2) if isinstance(plot, HeatMap) else 3.8


def _name(name: str) -> str:
    return "\n".join(short_lines(visible(name)))


def _grid(axes: Any, axis: str) -> None:
    axes.grid(axis=axis, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _logarithmic(axes: Any, axis: str) -> None:
    axes.set(**{f"{axis}scale": "log"})
    getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")  # not as a formula, which no text is here
    getattr(axes, f"{axis}axis").set_minor_formatter("")


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _level(axes: Any, reference: Reference | None, axis: str) -> None:
    if reference is None:
        return
    draw = axes.axhline if axis == "y" else axes.axvline
    draw(reference.value, color=LIGHT[0], linewidth=1.2, linestyle="--", zorder=1)
    at, places = (
        ((1, reference.value), ("axes fraction", "data")) if axis == "y" else ((reference.value, 1), ("data", "axes fraction"))
    )
    side = ("right", "bottom") if axis == "y" else ("left", "top")
    axes.annotate(
        visible(reference.name), at, xycoords=places, ha=side[0], va=side[1], fontsize=9, color=LIGHT[0], xytext=(2, 2),
        textcoords="offset points",
    )  # fmt: skip


def _points(axes: Any, plot: Points) -> None:
    members = series_of(plot)
    places = places_of([points[0].group or points[0].name for _, points in members])
    for index, (place, (name, points)) in enumerate(zip(places, members, strict=True)):
        ends = [reach_of(p, p.y) for p in points]
        axes.errorbar(
            [p.x for p in points], [p.y for p in points], yerr=list(zip(*ends, strict=True)) if any(map(any, ends)) else None,
            fmt=SIGNS[index % len(SIGNS)][1], color=LIGHT[place], markersize=8, capsize=3, linewidth=1.2,
            label=_name(name) or None,
        )  # fmt: skip
        if points[0].group in plot.joined:
            line = sorted((p for p in plot.points if p.group == points[0].group), key=lambda p: p.x)
            axes.plot([p.x for p in line], [p.y for p in line], color=LIGHT[place], linewidth=1.2)
    if plot.log_x:
        _logarithmic(axes, "x")
    axes.set_xlabel(visible(plot.x_label))
    axes.set_ylabel(visible(plot.y_label))
    _grid(axes, "both")
    _level(axes, plot.reference, "y")
    if any(name for name, _ in members):
        _legend(axes)


def _bars(axes: Any, plot: Bars) -> None:
    groups = groups_of(plot.bars)
    places = dict(zip(groups, places_of([g or plot.label for g in groups]), strict=True))
    rows, values = range(len(plot.bars)), [bar.value for bar in plot.bars]
    colours = [LIGHT[places[bar.group]] for bar in plot.bars]
    ends = [reach_of(b, b.value) for b in plot.bars]
    if plot.has_intervals:
        axes.errorbar(values, rows, xerr=list(zip(*ends, strict=True)), fmt="none", ecolor="#5f6773", capsize=3, linewidth=1.2)
        axes.scatter(values, rows, color=colours, s=55, zorder=3)
    else:
        axes.barh(rows, values, color=colours, height=0.7)
    for group in groups if len(groups) > 1 else ():
        axes.scatter([], [], color=LIGHT[places[group]], marker="s", label=group or " ")
    if plot.log:
        _logarithmic(axes, "x")
    for row, (value, (_, above)) in enumerate(zip(values, ends, strict=True)):
        if math.isfinite(value):
            axes.annotate(
                format(value, plot.form), (value + above, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
            )
    axes.margins(x=0.12)
    axes.set_yticks(rows, [_name(bar.name) for bar in plot.bars], fontsize=9)
    axes.set_ylim(len(plot.bars) - 0.5, -0.5)
    axes.set_xlabel(visible(plot.label))
    _grid(axes, "x")
    _level(axes, plot.reference, "x")
    if len(groups) > 1:
        _legend(axes)


def _lines(axes: Any, plot: Lines) -> None:
    places = places_of([line.name for line in plot.lines])
    for index, (place, line) in enumerate(zip(places, plot.lines, strict=True)):
        dash = DASHES[index % len(DASHES)][1]
        axes.plot(line.x, line.y, dash, color=LIGHT[place], marker="o", markersize=4, linewidth=1.6, label=_name(line.name))
    if plot.log:
        _logarithmic(axes, "y")
    axes.set_xlabel(visible(plot.x_label))
    axes.set_ylabel(visible(plot.y_label))
    _grid(axes, "both")
    _level(axes, plot.reference, "y")
    _legend(axes)


def _histogram(axes: Any, plot: Histogram) -> None:
    places = places_of([series.name for series in plot.series])
    for place, series in zip(places, plot.series, strict=True):
        opacity = 0.7 if len(plot.series) > 1 else 1.0
        axes.stairs(series.counts, plot.edges, fill=True, color=LIGHT[place], alpha=opacity, label=_name(series.name))
    axes.set_xlabel(visible(plot.label))
    axes.set_ylabel("count")
    _grid(axes, "y")
    _legend(axes)


def _heat_map(axes: Any, plot: HeatMap) -> None:
    drawn = axes.imshow(_finite(plot.values), aspect="auto", cmap="Blues")
    axes.set_xticks(range(len(plot.x_labels)), [_name(n) for n in plot.x_labels], fontsize=9)
    axes.set_yticks(range(len(plot.y_labels)), [_name(n) for n in plot.y_labels], fontsize=9)
    axes.figure.colorbar(drawn, ax=axes, label=visible(plot.label))


def _finite(rows: Sequence[Sequence[float]]) -> Any:
    import numpy as np

    values = np.asarray(rows, np.float64)
    return np.where(np.isfinite(values), values, np.nan)

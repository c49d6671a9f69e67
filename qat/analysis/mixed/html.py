"""A result as a page: the decision, the front as predicted and as measured, and the precision of each layer at each point."""

from __future__ import annotations

from qat.display.table import Column, Table
from qat.report.html.page import Figure, Mood, Section, WebPage
from qat.report.html.plots import Point as Place
from qat.report.html.plots import Points, Reference

from .result import MixedPrecision, Point

#: The groups of the points in a plot.
_PREDICTED, _MEASURED, _UNIFORM = "predicted", "measured", "uniform"


def web_page(found: MixedPrecision) -> WebPage:
    """Return the page of a result."""
    facts = (
        ("target", found.target), ("minimized", found.minimized), ("samples", f"{found.report.n_eval:,}"),
        ("budget of the drop", "" if found.max_drop is None else f"{found.max_drop:g}"),
        ("options weighed", f"{len(found.options)} of {len({o.layer for o in found.options})} layers"),
    )  # fmt: skip
    mood: Mood = "" if found.max_drop is None else "bad" if found.best is None else "good"
    sections = (
        Section("The front", (*_plots(found), found.table())),
        Section("The layers", (_layers(found),)),
        Section("The options", (_options(found),)),
    )
    return WebPage(f"Mixed precision for {found.target}", found.decision(), sections, mood, facts)


def _plots(found: MixedPrecision) -> tuple[Figure, ...]:
    by_size = found.minimized == "size"
    label = "size of the weights, KiB" if by_size else "kernels and conversions, ms"
    form = ",.1f" if by_size else ".3f"

    def cost(point: Point) -> float:
        return point.predicted.bytes / 1024 if by_size else point.predicted.ms

    uniform = [found.uniform] if found.uniform is not None and found.uniform not in found.points else []
    losses = [Place(f"{p.name}, {_PREDICTED}", cost(p), p.predicted.loss, group=_PREDICTED) for p in found.points]
    losses += [Place(p.name, cost(p), p.score.loss, group=_MEASURED) for p in found.points]
    losses += [Place(_UNIFORM, cost(p), p.score.loss, group=_UNIFORM) for p in uniform]
    drops = [_drop(p, cost(p), _MEASURED) for p in found.points] + [_drop(p, cost(p), _UNIFORM) for p in uniform]
    budget = None if found.max_drop is None else Reference("budget", found.max_drop)
    what = "size" if by_size else "latency"
    return (
        Figure(
            "loss",
            Points(
                f"Loss against {what}", label, "loss of the outputs", tuple(losses), form, ".3g", joined=(_PREDICTED, _MEASURED)
            ),
            "Predicted: the losses of the layers, measured one at a time, added up. Measured: the artifact in its runtime.",
        ),
        Figure(
            "drop",
            Points(f"Drop of the metric against {what}", label, "drop", tuple(drops), form, ".2f", budget, (_MEASURED,)),
            "Measured in the runtime, with the 95 % interval.",
        ),
    )


def _drop(point: Point, cost: float, group: str) -> Place:
    return Place(point.name, cost, point.drop, point.score.drop_low, point.score.drop_high, group)


def _layers(found: MixedPrecision) -> Table:
    names = [*found.points[0].assignment]
    columns = (Column("layer"), *(Column(point.name) for point in found.points))
    return Table(columns, tuple((name, *(point.assignment[name] for point in found.points)) for name in names))


def _options(found: MixedPrecision) -> Table:
    titles = ("layer", "precision", "loss alone", "bytes of weights", "ms")
    rows = ((o.layer, o.choice, f"{o.loss:.3g}", f"{o.bytes:,}", f"{o.ms:.4f}") for o in found.options)
    return Table(tuple(Column(title, right=i > 1) for i, title in enumerate(titles)), tuple(rows))

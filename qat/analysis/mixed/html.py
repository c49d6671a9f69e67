"""A result as a page: the decision, the front as predicted and as measured, and the precision of each layer at each point."""

from __future__ import annotations

from collections.abc import Callable

from qat.display.table import Column, Table
from qat.report.html.page import Figure, Section, WebPage
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
    mood = "" if found.max_drop is None else "bad" if found.best is None else "good"
    sections = (
        Section("The front", (*_plots(found), found.table())),
        Section("The layers", (_layers(found),)),
        Section("The options", (_options(found),)),
    )
    return WebPage(f"Mixed precision for {found.target}", found.decision(), sections, mood, facts)


def _plots(found: MixedPrecision) -> tuple[Figure, ...]:
    plots = [
        Figure(
            "size", _front(found, "size of the weights, KiB", lambda p: p.predicted.bytes / 1024),
            "Predicted: the drops of the layers, measured one at a time, added up. Measured: the artifact in its runtime.",
        )
    ]  # fmt: skip
    if all(p.predicted.ms for p in found.points):
        plots.append(
            Figure(
                "latency",
                _front(found, "kernels and conversions, ms", lambda p: p.predicted.ms, ".3f"),
                "Milliseconds as predicted from single kernels; the table has those of the files.",
            )
        )
    return tuple(plots)


def _front(found: MixedPrecision, label: str, cost: Callable[[Point], float], form: str = ",.1f") -> Points:
    places = [Place(p.name, cost(p), p.predicted_drop, group=_PREDICTED) for p in found.points]
    places += [Place(p.name, cost(p), p.drop, group=_MEASURED) for p in found.points]
    if found.uniform is not None and found.uniform not in found.points:
        places.append(Place(_UNIFORM, cost(found.uniform), found.uniform.drop, group=_UNIFORM))
    budget = None if found.max_drop is None else Reference("budget", found.max_drop)
    title = "Drop of the metric against " + label.partition(",")[0]
    return Points(title, label, "drop against float", tuple(places), form, ".2f", budget, (_PREDICTED, _MEASURED))


def _layers(found: MixedPrecision) -> Table:
    names = [*found.points[0].assignment]
    columns = (Column("layer"), *(Column(point.name) for point in found.points))
    return Table(columns, tuple((name, *(point.assignment[name] for point in found.points)) for name in names))


def _options(found: MixedPrecision) -> Table:
    titles = ("layer", "precision", "loss alone", "bytes of weights", "ms")
    rows = ((o.layer, o.choice, f"{o.loss:.3g}", f"{o.bytes:,}", f"{o.ms:.4f}") for o in found.options)
    return Table(tuple(Column(title, right=i > 1) for i, title in enumerate(titles)), tuple(rows))

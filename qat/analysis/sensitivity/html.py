"""A measurement as a page: the decision, the layers, the recipes that were tried."""

from __future__ import annotations

from qat.report.html.page import Figure, Section, WebPage
from qat.report.html.plots import Bar, Bars, Point, Points, Reference

from .result import Sensitivity

#: The most layers that a plot has.
_MOST_BARS = 40


def web_page(found: Sensitivity) -> WebPage:
    """Return the page of a measurement."""
    chosen = found.chosen
    measured = found.measured.title or found.measured.name
    facts = (
        ("recipe", found.recipe), ("target", found.target), ("samples", f"{found.samples:,}"),
        (f"{measured} of float", found.measured.shown(found.reference)),
        ("cost", f"{found.method}, {found.evaluations:.1f} evaluations of the model, {found.seconds:.1f} s"),
    )  # fmt: skip
    untried = ("Recipes were not tried: the losses say where to look, not what an artifact loses.",) if not found.trials else ()
    return WebPage(
        f"Sensitivity of the layers: {found.recipe}",
        found.decision,
        (Section("The layers", _layers(found)), Section("The recipes, measured in the runtime", _trials(found))),
        "" if chosen is None else "good" if chosen.enough else "bad",
        facts,
        untried,
    )


def _layers(found: Sensitivity) -> tuple[Figure | str, ...]:
    shown = found.layers[:_MOST_BARS]
    losses = tuple(
        Bar(f"{row.layer} ({row.kind})", max(row.loss, 1e-12), group="sensitive" if row.sensitive else "others") for row in shown
    )
    plots: list[Figure | str] = [
        Figure(
            "losses",
            Bars("Loss with one layer quantized alone", "loss of the outputs (1: the input is ignored)", losses, ".2g", log=True),
            "0 is float. The loss is smoother than a metric: it orders layers on few samples.",
        )
    ]
    known = [row for row in shown if row.drop is not None]
    if known:
        bars = tuple(
            Bar(
                f"{row.layer} ({row.kind})", -(row.drop or 0.0), _negative(row.drop_high), _negative(row.drop_low),
                "sensitive" if row.sensitive else "others",
            )
            for row in known
        )  # fmt: skip
        title = f"Change of {found.measured.title or found.measured.name} with one layer quantized alone"
        plots.append(Figure("changes", Bars(title, "change, %", bars, reference=Reference("threshold", -found.threshold))))
    left = len(found.layers) - len(shown)
    return (*plots, *([f"{left} layers with less loss are in sensitivity.json."] if left else []))


def _trials(found: Sensitivity) -> tuple[Figure, ...]:
    if not found.trials or not found.trials[0].bytes:
        return ()
    points = tuple(
        Point(t.recipe.name, t.bytes / 1024, t.metric, group="chosen" if t is found.chosen else "tried") for t in found.trials
    )
    title = f"{found.measured.title or found.measured.name} against size"
    reference = Reference("float", found.reference)
    return (Figure("recipes", Points(title, "size, KiB", found.measured.heading, points, reference=reference)),)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value

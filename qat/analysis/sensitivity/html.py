"""A measurement as a page: the decision, the layers, the recipes that were tried."""

from __future__ import annotations

from qat.display.table import Column, Table
from qat.report.html.page import Figure, Section, WebPage
from qat.report.html.plots import Bar, Bars, Point, Points, Reference

from .result import Sensitivity, Trial

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


def _trials(found: Sensitivity) -> tuple[Figure | Table, ...]:
    blocks: list[Figure | Table] = []
    if found.trials and found.trials[0].bytes:
        points = tuple(_point(found, trial) for trial in found.trials)
        title = f"{found.measured.title or found.measured.name} against size"
        plot = Points(title, "size, KiB", found.measured.heading, points, reference=Reference("float", found.reference))
        blocks.append(Figure("recipes", plot))
    if found.chosen is not None and found.chosen.pins:
        columns = (Column(f"pinned, {found.chosen.precision}"), Column("operator"))
        blocks.append(Table(columns, tuple((pin.layer, pin.kind) for pin in found.chosen.pins)))
    return tuple(blocks)


def _point(found: Sensitivity, trial: Trial) -> Point:
    """Return a recipe's place; the interval is that of its change, about float's value."""
    low, high = trial.drop_low, trial.drop_high
    ends: tuple[float | None, float | None] = (None, None)
    if found.measured.unit == " %" and low is not None and high is not None:
        sign = -1 if found.measured.higher_is_better else 1
        first, last = sorted((found.reference + sign * low, found.reference + sign * high))
        ends = first, last
    return Point(trial.recipe.name, trial.bytes / 1024, trial.metric, *ends, "chosen" if trial is found.chosen else "tried")


def _negative(value: float | None) -> float | None:
    return None if value is None else -value

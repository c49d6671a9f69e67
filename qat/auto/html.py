"""The page of a search: the decision, what each step brought on the validation data, and the comparison on the test data."""

from __future__ import annotations

from qat.display.page import Whole
from qat.report.html.page import Block, Figure, Section, WebPage
from qat.report.html.plots import Bar, Bars, Reference
from qat.report.webpage import sections_of

from .goal import Figures
from .journal import Attempt
from .result import Automatic


def web_page(result: Automatic) -> WebPage:
    """Return the page of a search."""
    tried = [(a, a.figures) for a in result.attempts if a.figures is not None]
    steps: list[Block] = [result.table()]
    if len(tried) > 1:
        steps.append(_bars(result, tried))
    if result.evidence is not None:
        steps.append(f"After the first step {result.evidence.said()}.")
    skipped = tuple(f"{a.step}: {a.why}" for a in result.attempts if a.outcome != "tried")
    report = result.report
    where = tuple(Whole(f"{name}: {path}") for name, path in (("artifact", result.artifact), ("recipe", result.recipe)))
    return WebPage(
        f"The cheapest that is good enough: {report.dataset}, {report.framework}",
        report.decision,
        (
            Section("What was tried", tuple(steps)),
            Section("On the test data", sections_of(report)),
            Section("The files", where),
        ),
        "good" if result.reached else "bad",
        (
            ("goal", result.wanted),
            ("time", f"{result.seconds:.0f} s of {result.goal.budget:.0f} s"),
            ("chosen", result.chosen.step),
        ),
        skipped,
    )


def _bars(result: Automatic, tried: list[tuple[Attempt, Figures]]) -> Figure:
    metric = result.metric
    bars = tuple(Bar(a.step, f.delta, f.low, f.high, "chosen" if a.step == result.chosen.step else "tried") for a, f in tried)
    sign = -1.0 if metric.higher_is_better else 1.0
    limit = Reference("the limit", sign * result.goal.limit(metric, tried[0][1].reference))
    plot = Bars("Each step against float", f"{metric.heading}, difference from float", bars, reference=limit)
    return Figure("steps", plot, "Differences from the float model on the validation data, with 95 % intervals.")

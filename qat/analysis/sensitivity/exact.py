"""The exact way: every variant is computed, each sharing the float prefix before its first rounding with the others."""

from __future__ import annotations

from collections.abc import Sequence

from qat.display.progress import bar
from qat.planning.plan import Plan
from qat.planning.rounding import Variant

from .judge import Judge, Rows, Score


def measured(judge: Judge, variants: Sequence[Variant]) -> list[Score]:
    """Return the score of each variant, in their order."""
    rows: list[list[Rows]] = [[] for _ in variants]
    with bar("sensitivity", len(judge.inputs) * len(variants)) as shown:
        for batch, inputs in enumerate(judge.inputs):
            for index, outputs in judge.adapter.simulate(judge.model, inputs, variants):
                rows[index].append(judge.rows(batch, outputs))
                shown.advance()
    return [judge.score(found) for found in rows]


def evaluations(plan: Plan, variants: Sequence[Variant]) -> float:
    """Return how many evaluations of the whole model :func:`measured` costs, counted in operators.

    Two are the float outputs and the float prefix; a variant costs what stands behind its first rounding.
    """
    place = {p.op.name: i for i, p in enumerate(plan.ops)}
    first_reader = {t: i for i, p in reversed([*enumerate(plan.ops)]) for t in p.op.inputs}
    begins = [min(place.get(name, first_reader.get(name, 0)) for name in variant) for variant in variants if variant]
    return 2 + sum(len(plan.ops) - begin for begin in begins) / max(len(plan.ops), 1)

"""The best assignments of a problem, by mixed-integer linear programming (``scipy.optimize.milp``, the solver HiGHS).

An option is a variable of 0 or 1, and those of a layer add up to 1. A pair ``p`` of the variables ``a`` and ``b``, each the sum
of a layer's options, is the product ``a b``, which three inequalities hold: ``p <= a``, ``p <= b``, ``p >= a + b - 1``
(McCormick, 1976, https://doi.org/10.1007/BF01580665). An excluded combination of ``n`` parts adds up to ``n - 1`` at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat.errors import MissingDependencyError, QatError

from .problem import AMOUNTS, Amount, Problem, Some, exactly

#: The share by which a limit may be passed, of what the solver's tolerance leaves open.
_SLACK = 1e-9


def solve(problem: Problem, minimize: Sequence[Amount], limits: Mapping[Amount, float] | None = None) -> dict[str, str] | None:
    """Return the assignment of least cost; None where none keeps the limits.

    Args:
        problem: what there is to choose.
        minimize: the amounts to minimize: the first one first, each further one among the assignments that remain.
        limits: the most that an amount may come to.

    Raises:
        MissingDependencyError: SciPy is not installed.

    Examples:
        >>> from qat.analysis.mixed.problem import Option, Problem
        >>> rows = [("conv", "int8", 0.0, 8, 1.0), ("conv", "int4", 0.5, 4, 1.0), ("head", "int8", 0.0, 6, 1.0)]
        >>> solve(Problem(tuple(Option(*row) for row in rows)), ["bytes"], {"loss": 1.0})
        {'conv': 'int4', 'head': 'int8'}
    """
    allowed = dict(limits or {})
    found: dict[str, str] | None = None
    for amount in minimize:
        best = _best(problem, amount, allowed)
        if best is None:
            return found
        found = best
        value = float(getattr(problem.totals(found), amount))
        allowed[amount] = min(allowed.get(amount, np.inf), value + _SLACK * max(1.0, abs(value)))
    return found


def front(problem: Problem, cost: Amount, points: int, limits: Mapping[Amount, float] | None = None) -> list[dict[str, str]]:
    """Return assignments from the cheapest to the one of least loss: at even steps of the cost, that of least loss.

    No assignment costs less than another and loses no more. There are fewer than ``points`` where steps share an assignment.

    Args:
        problem: what there is to choose.
        cost: ``bytes`` or ``ms``.
        points: the most assignments that are returned, at least 1; of a single one the cheapest.
        limits: the most that an amount may come to; nothing is returned where no assignment keeps them.
    """
    kept = dict(limits or {})
    cheapest, best = solve(problem, (cost, "loss"), kept), solve(problem, ("loss", cost), kept)
    if cheapest is None or best is None:
        return []
    low, high = (float(getattr(problem.totals(end), cost)) for end in (cheapest, best))
    found = [cheapest]
    for most in np.linspace(low, high, points)[1:]:
        step = solve(problem, ("loss", cost), kept | {cost: min(most, kept.get(cost, np.inf))})
        if step is not None and problem.totals(step).loss < problem.totals(found[-1]).loss:
            found.append(step)
    return found


def _best(problem: Problem, amount: Amount, limits: Mapping[Amount, float]) -> dict[str, str] | None:
    """Return the assignment of the least amount. What passes a limit by the solver's tolerance is excluded."""
    while True:
        found = _Program(problem).solved(amount, limits)
        if found is None:
            return None
        totals = problem.totals(found)
        if all(getattr(totals, name) <= most + _SLACK * max(1.0, abs(most)) for name, most in limits.items()):
            return found
        problem = problem.excluding([exactly(found)])


class _Program:
    """A problem as rows of coefficients: the variables are the options, then the pairs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.column = {(option.layer, option.choice): index for index, option in enumerate(problem.options)}
        self.size = len(problem.options) + len(problem.pairs)
        self.rows: list[np.ndarray] = []
        self.low: list[float] = []
        self.high: list[float] = []
        for layer, options in problem.layers.items():
            self.add(self.sum_of(Some(layer, frozenset(o.choice for o in options))), 1.0, 1.0)
        for parts in problem.excluded:
            self.add(np.sum([self.sum_of(part) for part in parts], axis=0), -np.inf, len(parts) - 1.0)
        for index, pair in enumerate(problem.pairs, len(problem.options)):
            product, first, second = self.unit(index), self.sum_of(pair.first), self.sum_of(pair.second)
            self.add(product - first, -np.inf, 0.0)
            self.add(product - second, -np.inf, 0.0)
            self.add(product - first - second, -1.0, np.inf)

    def add(self, row: np.ndarray, low: float, high: float) -> None:
        self.rows.append(row)
        self.low.append(low)
        self.high.append(high)

    def unit(self, index: int) -> np.ndarray:
        row = np.zeros(self.size)
        row[index] = 1.0
        return row

    def sum_of(self, part: Some) -> np.ndarray:
        row = np.zeros(self.size)
        row[[self.column[part.layer, choice] for choice in part.choices if (part.layer, choice) in self.column]] = 1.0
        return row

    def amount(self, name: Amount) -> np.ndarray:
        row = np.zeros(self.size)
        row[: len(self.problem.options)] = [getattr(option, name) for option in self.problem.options]
        if name == "ms":
            row[len(self.problem.options) :] = [pair.ms for pair in self.problem.pairs]
        return row

    def solved(self, amount: Amount, limits: Mapping[Amount, float]) -> dict[str, str] | None:
        """Return the assignment of the least amount within the limits; None where there is none.

        Raises:
            QatError: the solver gives up.
        """
        optimize = _scipy()
        for name in AMOUNTS:
            if np.isfinite(limits.get(name, np.inf)):
                row = self.amount(name)
                scale = np.abs(row).max(initial=0.0) or 1.0  # the solver's tolerance is absolute
                self.add(row / scale, -np.inf, limits[name] / scale)
        cost = self.amount(amount)
        result = optimize.milp(
            cost / (np.abs(cost).max(initial=0.0) or 1.0),
            constraints=optimize.LinearConstraint(np.array(self.rows), np.array(self.low), np.array(self.high)),
            integrality=np.arange(self.size) < len(self.problem.options),
            bounds=optimize.Bounds(0.0, 1.0),
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:  # infeasible
            return None
        if result.x is None:
            raise QatError(f"the choice of precisions was not solved: {result.message}")
        taken = result.x[: len(self.problem.options)] > 0.5
        return {o.layer: o.choice for o, chosen in zip(self.problem.options, taken, strict=True) if chosen}


def _scipy() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise MissingDependencyError("mixed precision needs scipy: pip install 'qat-toolkit[report]'") from error
    return optimize

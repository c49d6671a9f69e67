"""The solver against every assignment of small problems."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.analysis.mixed.problem import Option, Pair, Problem, Some
from qat.analysis.mixed.solver import front, solve

AMOUNTS = ("loss", "bytes", "ms")
_LOSS = st.floats(-0.5, 5).map(lambda x: round(x, 3))
_MS = st.floats(0, 3).map(lambda x: round(x, 4))


@st.composite
def problems(draw):
    layers = [f"layer{i}" for i in range(draw(st.integers(1, 4)))]
    choices = {layer: "abcd"[: draw(st.integers(1, 4))] for layer in layers}
    options = tuple(
        Option(layer, choice, draw(_LOSS), draw(st.integers(1, 10**7)), draw(_MS))
        for layer in layers
        for choice in choices[layer]
    )

    def some(layer):
        return Some(layer, frozenset(draw(st.sets(st.sampled_from(choices[layer]), min_size=1))))

    def parts(least):
        return tuple(some(x) for x in draw(st.lists(st.sampled_from(layers), min_size=least, max_size=least, unique=True)))

    two = len(layers) > 1
    pairs = tuple(Pair(*parts(2), draw(st.sampled_from((-1.5, -0.25, 0.5, 2.0)))) for _ in range(draw(st.integers(0, 3 * two))))
    excluded = tuple(parts(2) for _ in range(draw(st.integers(0, 2 * two))))
    return Problem(options, pairs, excluded)


def assignments(problem):
    layers = problem.layers
    for chosen in product(*(tuple(o.choice for o in options) for options in layers.values())):
        assignment = dict(zip(layers, chosen, strict=True))
        if problem.allows(assignment):
            yield assignment


def within(problem, assignment, limits):
    totals = problem.totals(assignment)
    return all(getattr(totals, name) <= most + 1e-9 * max(1.0, abs(most)) for name, most in limits.items())


@settings(deadline=None, max_examples=100)
@given(problems(), st.permutations(AMOUNTS), st.dictionaries(st.sampled_from(AMOUNTS), st.floats(0, 1), max_size=2))
def test_no_assignment_is_better(problem, order, shares):
    totals = [problem.totals(a) for a in assignments(problem)]
    # A limit at the amount of one of the assignments is the hardest: some keep it exactly.
    limits = {n: sorted(getattr(t, n) for t in totals)[int(share * (len(totals) - 1))] for n, share in shares.items() if totals}
    left = [problem.totals(a) for a in assignments(problem) if within(problem, a, limits)]
    found = solve(problem, order, limits)
    assert (found is None) == (not left)
    if found is None:
        return
    assert problem.allows(found)
    assert within(problem, found, limits)
    best = min(tuple(getattr(t, name) for name in order) for t in left)
    assert getattr(problem.totals(found), order[0]) == pytest.approx(best[0], rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from(("bytes", "ms")), st.integers(1, 6))
def test_no_assignment_of_the_front_is_beaten(problem, cost, points):
    found = [problem.totals(a) for a in front(problem, cost, points)]
    every = [problem.totals(a) for a in assignments(problem)]
    assert len(found) <= points
    assert bool(found) == bool(every)
    if not every:
        return
    assert getattr(found[0], cost) == pytest.approx(min(getattr(t, cost) for t in every))
    for point in found:
        limit = getattr(point, cost)
        assert point.loss <= min(t.loss for t in every if getattr(t, cost) <= limit) + 1e-6
    assert [t.loss for t in found] == sorted((t.loss for t in found), reverse=True)


def test_equal_sizes_are_told_apart_by_the_loss():
    problem = Problem((Option("a", "weights", 0.1, 4, 9.0), Option("a", "static", 0.4, 4, 1.0), Option("a", "int8", 0.0, 8, 1.0)))
    assert solve(problem, ("bytes", "loss")) == {"a": "weights"}
    assert solve(problem, ("bytes", "ms")) == {"a": "static"}


def test_a_conversion_between_neighbours_keeps_them_together():
    rows = [(layer, choice, loss, 1, ms) for layer in "ab" for choice, loss, ms in (("int8", 0.0, 1.0), ("float", 0.0, 0.9))]
    rows.append(("a", "int4", -1.0, 1, 1.2))
    mixed = Pair(Some("a", frozenset({"int4"})), Some("b", frozenset({"float"})), 5.0)
    problem = Problem(tuple(Option(*row) for row in rows), (mixed,))
    assert solve(problem, ("loss", "ms")) == {"a": "int4", "b": "int8"}
    assert solve(problem, ("ms",)) == {"a": "float", "b": "float"}


def test_a_limit_that_nothing_keeps_gives_nothing():
    problem = Problem((Option("a", "int8", 0.0, 8, 1.0),))
    assert solve(problem, ("loss",), {"bytes": 7}) is None
    assert front(problem, "bytes", 3, {"bytes": 7}) == []

"""The goal of a search, judged by figures."""

from __future__ import annotations

import numpy as np
import pytest

from qat.auto.goal import Figures, Goal
from qat.auto.judging import EXPLAINED
from qat.errors import ConfigError
from qat.trainers.metrics import METRICS

TOP1, MSE = METRICS["top1"], METRICS["mse"]


def figures(delta, low, high, p=0.5, reference=90.0, samples=5000):
    return Figures("top1", reference + delta, reference, delta, low, high, p, 30.0, samples)


@pytest.mark.parametrize(
    ("found", "finest", "verdict"),
    [
        (figures(-0.1, -0.4, 0.2), 0.1, "reached"),
        (figures(-0.1, -0.7, 0.5), 0.1, "unsure"),
        (figures(-0.6, -0.7, -0.4), 0.1, "unsure"),
        (figures(-2.0, -2.5, -1.5, 1e-9), 0.1, "missed"),
        (figures(0.0, -1.5, 1.5, 1.0), 1.5, "likely"),  # the samples are too few for any model
        (figures(-0.7, -2.2, 0.8, 1.0), 1.5, "unsure"),
        (figures(0.0, None, None, None), 0.0, "likely"),
        (figures(-3.0, None, None, None), 0.0, "unsure"),
    ],
)  # fmt: skip
def test_an_interval_decides(found, finest, verdict):
    assert Goal(0.5).judged(found, TOP1, finest)[0] == verdict


@pytest.mark.parametrize(("delta", "low", "high", "verdict"), [(0.001, -0.001, 0.004, "reached"), (0.02, 0.01, 0.03, "missed")])
def test_of_an_error_less_is_better_and_the_limit_is_a_share_of_it(delta, low, high, verdict):
    goal = Goal(0.5)
    assert goal.limit(MSE, 1.0) == pytest.approx(0.005)
    found, said = goal.judged(figures(delta, low, high, reference=1.0), MSE, 0.0)
    assert found == verdict
    assert f"{delta:+.4g} to float" in said
    assert goal.said(MSE, 1.0) == "MSE at most 0.5 % above float's 1"


def test_the_sentence_has_the_figures():
    found = figures(-0.1, -0.4, 0.2)
    assert Goal(0.5).judged(found, TOP1, 0.1)[1] == (
        "-0.10 to float (95 % interval -0.40 to +0.20, p = 0.5): within the limit of 0.50 %"
    )


@pytest.mark.parametrize(
    ("drop", "budget", "message"),
    [
        (-1.0, "30m", "--max-drop is a number"),
        (200.0, "30m", "from 0 to below 100"),
        (0.5, "soon", "--budget is a time"),
        (0.5, "0", "--budget"),
    ],
)
def test_what_is_no_goal(drop, budget, message):
    with pytest.raises(ConfigError, match=message):
        Goal.of(drop, budget)


def test_explained_variance_is_that_of_the_worst_output():
    rng = np.random.default_rng(0)
    good, bad = rng.normal(size=(64, 3)), rng.normal(size=(64, 5))
    off = bad + 0.1 * rng.normal(size=bad.shape)
    value = EXPLAINED.total(EXPLAINED.values((good, off), (good, bad)))
    wanted = 100 * (1 - np.square(off - bad).mean() / bad.var())
    assert value == pytest.approx(wanted)
    assert EXPLAINED.total(EXPLAINED.values(good, good)) == 100

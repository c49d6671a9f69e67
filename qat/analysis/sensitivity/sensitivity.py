"""The public call: which layers hurt, and the recipe that spares them, measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from qat import api
from qat.display.progress import shown
from qat.errors import ConfigError, DataError, nearest
from qat.frameworks import input_count, is_prepared
from qat.planning.recipe import Recipe, load_recipe
from qat.planning.targets import Target, load_target
from qat.system.samples import batches_of, first_of_pair
from qat.trainers.metrics import MetricSpec
from qat.typing import Batches, Estimator, Inputs, Model, PreparedModel, Samples

from . import exact, fast
from .judge import Judge, Score, check_plan
from .layers import Layer, Part, check_part, layers_of
from .pinning import Pin, Precision, all_pins, pinned
from .result import LayerSensitivity, Sensitivity, Trial
from .trial import Options, Setup

log = logging.getLogger("qat")

#: How losses are found: one layer at a time, or all at once from gradients.
Method: TypeAlias = Literal["exact", "fast"]
_METHODS: tuple[Method, ...] = get_args(Method)

#: The most evaluations that the fast way may cost.
_MOST_EVALUATIONS = 10.0
#: The most recipes that are tried, besides the one given.
_MOST_TRIALS = 6


def sensitivity(
    model: Model | str | Path,
    data: Batches,
    *,
    calibration: Samples | None = None,
    recipe: str | Path | Recipe = "static_wi8_ai8",
    target: str | Target | None = None,
    example_inputs: Inputs | None = None,
    method: Method = "exact",
    what: Part = "both",
    threshold: float = 0.5,
    budget: float | None = None,
    metrics: Iterable[MetricSpec] | None = None,
    estimator: Estimator | None = None,
    equalize: bool = False,
    dynamic: Sequence[str] = (),
    try_recipes: bool = True,
    progress: bool = True,
) -> Sensitivity:
    """Measure what each layer's quantization costs, and the recipe that leaves the sensitive layers at higher precision.

    A layer alone is quantized, and the rest of the model is float: its weight is rounded, and its output, on the scales that
    calibration found. The recipe with the sensitive layers in 16 bits, where the target's kernels allow that, else in float, is
    prepared, calibrated, exported and run in its runtime on the same data, as is the recipe without them. Where that is not
    within the budget, the layers with the next largest losses are added.

    Args:
        model: a float model, or the path of a file, as for :func:`qat.prepare`. Of a model that is prepared and calibrated, the
            layers are measured as it is, and no recipe is tried.
        data: batches of ``(inputs, labels)``, held in memory. Of inputs alone, metrics are held against the float model's
            answers. A few hundred samples order the layers; a drop of 0.5 points needs a thousand or more to be seen.
        calibration: samples for the ranges; None takes the inputs of ``data``.
        recipe: as for :func:`qat.prepare`.
        target: as for :func:`qat.prepare`.
        example_inputs: as for :func:`qat.prepare`; None takes the first batch of ``data``.
        method: ``exact`` computes the model once for each layer, from the layer on: about N / 2 evaluations for N layers.
            ``fast`` estimates all losses from gradients, in at most 10 evaluations, and measures the first layers of that order
            until one is not sensitive, or the 10 are used up.
        what: of a layer is quantized: its ``weight``, its ``activation``, or ``both``.
        threshold: a layer is sensitive where the first metric is worse by more than this: in percentage points where the metric
            is a percentage, else in percent of float's value.
        budget: how much worse the whole recipe may be, in the same unit; None: the threshold.
        metrics: as for :func:`qat.compare`; the first one decides. None chooses by the labels.
        estimator: as for :func:`qat.calibrate`.
        equalize: as for :func:`qat.prepare`.
        dynamic: as for :func:`qat.prepare`.
        try_recipes: whether recipes are tried in their runtime.
        progress: as for :func:`qat.calibrate`.

    Returns:
        The layers, the recipes that were tried, and ``chosen``, the first of these within the budget.

    Raises:
        CalibrationError: a prepared model is not calibrated.
        ConfigError: an option is unknown, or the model is of ``tf_keras``.
        DataError: no data, or data that do not fit.

    Examples:
        >>> import numpy as np, qat, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> found = qat.sensitivity(net, [x], threshold=5.0)
        >>> sorted(layer.layer for layer in found.layers)
        ['0', '2', 'input']
        >>> found.trials[0].recipe.name
        'static_wi8_ai8'
    """
    check_options(method, what, threshold, budget)
    batches = [*batches_of(data, "the data of the sensitivity")]
    if not batches:
        raise DataError("the sensitivity got no data: pass at least one batch (a generator that was used up yields none)")
    with shown(progress):
        options = Options(None if target is None else load_target(target), estimator, equalize, tuple(dynamic))
        setup, prepared = _prepared(model, batches, calibration, recipe, example_inputs, options)
        judge = Judge(prepared, batches, metrics)
        started = time.perf_counter()
        layers = [layer for layer in layers_of(prepared.plan) if layer.variant(what)]
        rows, cost, rank = _rows(judge, layers, method, what, threshold)
        seconds = time.perf_counter() - started
        order = sorted(rows, key=lambda row: (-(row[0].drop or 0.0) if row[0].sensitive else 0.0, -row[0].loss))
        limit = threshold if budget is None else budget
        trials = _trials(setup, judge, order, limit) if setup is not None and try_recipes else ()
    plan = prepared.plan
    return Sensitivity(
        plan.target.name, plan.recipe.name, method, what, threshold, limit, judge.samples, judge.metrics[0], judge.labelled,
        judge.reference.metrics[judge.metrics[0].name], tuple(row for row, _ in order), trials, cost, seconds, rank,
    )  # fmt: skip


def check_options(method: str, what: str, threshold: float, budget: float | None) -> None:
    """Raise ConfigError for an option that is unknown or out of range."""
    if method not in _METHODS:
        raise ConfigError(f"method: there is no '{method}'{nearest(method, _METHODS)}; valid: {', '.join(_METHODS)}")
    check_part(what)
    if not threshold >= 0 or not (budget is None or budget >= 0):
        raise ConfigError("threshold and budget are percentages of at least 0: 0.5 for half a percentage point")


def _prepared(
    model: Model | str | Path,
    batches: list[Any],
    calibration: Samples | None,
    recipe: str | Path | Recipe,
    example: Inputs | None,
    options: Options,
) -> tuple[Setup | None, PreparedModel]:
    """Return the calibrated model, and how it is prepared by other recipes; None of one that came prepared."""
    if is_prepared(model):
        check_plan(model)
        return None, model
    float_model = api.load(model, example) if isinstance(model, (str, Path)) else model
    samples: list[Any] = batches if calibration is None else [*batches_of(calibration, "calibration")]
    inputs = first_of_pair(batches[0], input_count(float_model)) if example is None else example
    setup = Setup(float_model, inputs, samples, options)
    return setup, setup.prepared(load_recipe(recipe))


def _rows(
    judge: Judge, layers: Sequence[Layer], method: Method, what: Part, threshold: float
) -> tuple[list[tuple[LayerSensitivity, Layer]], float, float | None]:
    """Return the layers' rows, their cost in evaluations, and the rank correlation of estimates with measured losses."""
    variants = [layer.variant(what) for layer in layers]
    weights = [{} if what == "activation" else layer.weight for layer in layers]
    estimates = fast.estimated(judge, [*variants, *weights])
    estimate, of_weight = estimates[: len(layers)], estimates[len(layers) :]
    share = np.clip(of_weight / np.maximum(estimate, 1e-300), 0, 1)
    scores: dict[int, Score] = {}
    rank: float | None = None
    if method == "exact":
        scores = dict(enumerate(exact.measured(judge, variants)))
        cost = exact.evaluations(judge.model.plan, variants)
        rank = _rank([score.loss for score in scores.values()], estimate)
    else:
        cost = fast.evaluations(judge)
        for i in np.argsort(-estimate):
            more = exact.evaluations(judge.model.plan, [variants[i]]) - 1  # the float outputs are known
            if cost + more > _MOST_EVALUATIONS:
                break
            (scores[int(i)],) = exact.measured(judge, [variants[i]])
            cost += more
            if scores[int(i)].drop <= threshold:
                break
    name = judge.metrics[0].name
    rows = []
    for i, layer in enumerate(layers):
        s = scores.get(i)
        metric, drop, low, high = (None,) * 4 if s is None else (s.metrics[name], s.drop, s.drop_low, s.drop_high)
        loss = s.loss if method == "exact" and s is not None else float(estimate[i])
        found = s is not None and s.drop > threshold
        row = LayerSensitivity(
            layer.name, layer.kind, loss, float(estimate[i]), metric, drop, low, high, found, float(share[i])
        )  # fmt: skip
        rows.append((row, layer))
    return rows, cost, rank


def _rank(measured: Sequence[float], estimated: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; None of fewer than three layers, or of losses that are all alike."""
    from scipy import stats

    if len(measured) < 3 or len(set(measured)) == 1 or len(set(estimated.tolist())) == 1:
        return None
    return float(stats.spearmanr(measured, estimated).statistic)


def _trials(setup: Setup, judge: Judge, order: Sequence[tuple[LayerSensitivity, Layer]], budget: float) -> tuple[Trial, ...]:
    """Try the recipe, and then with ever more layers pinned, until one is within the budget."""
    plan = judge.model.plan
    whole = _trial(setup, judge, plan.recipe, (), "float", 0, budget)
    sensitive = sum(row.sensitive for row, _ in order)
    made, done, count = [whole], set[tuple[Pin, ...]](), sensitive
    while len(made) <= _MOST_TRIALS and count <= len(order) and (not made[-1].enough or (sensitive and len(made) == 1)):
        count = max(count, 1)
        pins = all_pins(plan, [layer for _, layer in order[:count]], [row.weight_share for row, _ in order[:count]])
        if pins and pins not in done:
            done.add(pins)
            try:
                found = pinned(plan.recipe, pins, f"{plan.recipe.name}_pinned_{len(pins)}", setup.plan)
            except ConfigError as error:  # all of the model would be float
                log.info("%d operators pinned: %s", len(pins), error)
                break
            made.append(_trial(setup, judge, found.recipe, pins, found.precision, count - sensitive, budget))
        count += max(1, count - sensitive)
    return tuple(made)


def _trial(
    setup: Setup, judge: Judge, recipe: Recipe, pins: tuple[Pin, ...], precision: Precision, added: int, budget: float
) -> Trial:  # fmt: skip
    tried = setup.tried(recipe, judge)
    s = tried.score
    metric, enough = s.metrics[judge.metrics[0].name], s.drop <= budget
    return Trial(
        recipe, pins, precision, added, metric, s.drop, s.drop_low, s.drop_high, s.loss, tried.bytes, enough, tried.tensors
    )  # fmt: skip

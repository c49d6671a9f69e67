"""Losses of layers under other rules: what mixed precision chooses from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qat import api
from qat.calibration.calibrate import set_ranges
from qat.captured import Captured, captured
from qat.display.progress import shown
from qat.errors import ConfigError, DataError, nearest
from qat.frameworks import input_count
from qat.planning.plan import Plan
from qat.planning.recipe import Recipe, Rule, load_recipe
from qat.planning.rounding import Variant
from qat.planning.targets import Target, load_target
from qat.system.samples import batches_of, first_of_pair
from qat.system.silence import without_notices
from qat.trainers.metrics import MetricSpec
from qat.typing import Batches, Inputs, Model, Samples

from .exact import measured
from .judge import Judge, Score, check_plan
from .layers import layers_of


@dataclass(frozen=True)
class Alternative:
    """One layer under another rule.

    Attributes:
        layer: its scope, as ``qat plan`` shows it (:attr:`qat.graph.graph.Op.layer`).
        rule: how the layer runs. The rule's own ``scope``, ``op`` and ``role`` are not looked at.
    """

    layer: str
    rule: Rule


@dataclass(frozen=True)
class AlternativeScore:
    """What an alternative costs.

    Attributes:
        alternative: the layer and the rule.
        score: of the model in float but for this layer, which rounds its weight and its output as the rule has it; None where the
            target's kernels cannot run the layer by the rule.
        reason: why they cannot; empty where they can.
    """

    alternative: Alternative
    score: Score | None
    reason: str = ""


def measure_alternatives(
    model: Model | str | Path,
    data: Batches,
    alternatives: Sequence[Alternative],
    *,
    calibration: Samples | None = None,
    target: str | Target | None = None,
    example_inputs: Inputs | None = None,
    metrics: Iterable[MetricSpec] | None = None,
    capture: Captured | None = None,
    progress: bool = True,
) -> tuple[AlternativeScore, ...]:
    """Measure layers one at a time under other rules: other bits, other modes.

    For each distinct rule the model is prepared and calibrated with that rule for all layers, and then runs in float but for one
    layer at a time (the exact way of :func:`qat.sensitivity`). A layer rounds its weight, and its output on the scale that
    calibration found under the rule; the rounding of its input belongs to the layer that writes it. To first order the losses
    add up: a mixed model's is about the sum of its layers'. A rule of mode ``float`` costs nothing and is not run.

    Args:
        model: a float model, or the path of a file, as for :func:`qat.prepare`.
        data: batches of ``(inputs, labels)``, or of inputs alone: then metrics are held against the float model's answers.
        alternatives: layers and rules, in any order; layers may repeat. The same rule is prepared once.
        calibration: samples for the ranges; None takes the inputs of ``data``.
        target: as for :func:`qat.prepare`.
        example_inputs: as for :func:`qat.prepare`; None takes the first batch of ``data``.
        metrics: as for :func:`qat.compare`; the first one decides.
        capture: the model's capture for the target and the example inputs, where there is one already.
        progress: as for :func:`qat.calibrate`.

    Returns:
        A score for each alternative, in the order given. ``score.loss`` is the loss against the float outputs (0 is float, 1 an
        answer that ignores the input), ``score.drop`` how much worse the first metric is.

    Raises:
        ConfigError: the model has no such layer, or the target has no kernels for a rule at all.
        DataError: no data, or data that do not fit.

    Examples:
        >>> import numpy as np, torch
        >>> from qat.planning.recipe import QuantSpec, Rule
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> four = Rule(weight=QuantSpec(bits=4, symmetric=True, granularity="channel"))
        >>> found = measure_alternatives(net, [x], [Alternative("0", Rule()), Alternative("0", four)], target="litert")
        >>> found[0].score.loss < found[1].score.loss
        True
    """
    wanted = [a.rule.model_copy(update={"scope": ".*", "op": "*", "role": None}) for a in alternatives]
    found: dict[int, AlternativeScore] = {}
    with shown(progress):
        trials = _Trials(model, data, calibration, None if target is None else load_target(target), example_inputs, metrics)
        if capture is not None:
            trials.captured = capture
        for rule in dict.fromkeys(wanted):
            places = [i for i, other in enumerate(wanted) if other == rule]
            scores = trials.scores(rule, [alternatives[i].layer for i in places])
            found |= {i: AlternativeScore(alternatives[i], *score) for i, score in zip(places, scores, strict=True)}
    return tuple(found[i] for i in range(len(alternatives)))


class _Trials:
    """A model and its data, prepared by one rule after another."""

    def __init__(
        self,
        model: Model | str | Path,
        data: Batches,
        calibration: Samples | None,
        target: Target | None,
        example: Inputs | None,
        metrics: Iterable[MetricSpec] | None,
    ) -> None:
        self.batches = [*batches_of(data, "the data of the sensitivity")]
        if not self.batches:
            raise DataError("the sensitivity got no data: pass at least one batch (a generator that was used up yields none)")
        self.model = api.load(model, example) if isinstance(model, (str, Path)) else model
        self.target = target
        self.samples = self.batches if calibration is None else [*batches_of(calibration, "calibration")]
        self.example = first_of_pair(self.batches[0], input_count(self.model)) if example is None else example
        self.metrics = metrics
        self.float: Score | None = None

    @cached_property
    def captured(self) -> Captured:
        """The model's capture, which all rules share."""
        return captured(self.model, self.example, self.target)

    def scores(self, rule: Rule, names: Sequence[str]) -> list[tuple[Score | None, str]]:
        """Return the score of each layer by a rule, or None and the reason why it cannot run by it."""
        if rule.mode == "float":
            return [(self._float(), "") for _ in names]
        try:
            judge = self._judge(Recipe(name="alternative", rules=(rule,)))
        except ConfigError as error:  # the target has no kernels for any layer
            return [(None, str(error)) for _ in names]
        plan = judge.model.plan
        known = {p.op.layer for p in plan.ops}
        for name in names:
            if name not in known:
                raise ConfigError(f"the model has no layer '{name}'{nearest(name, known)}; qat plan shows the layers")
        reasons = [_left_float(plan, name) for name in names]
        variants = [{} if reason else _variant(plan, name) for name, reason in zip(names, reasons, strict=True)]
        scores = measured(judge, variants)
        return [(None if reason else score, reason) for score, reason in zip(scores, reasons, strict=True)]

    def _judge(self, recipe: Recipe) -> Judge:
        with without_notices():
            prepared = self.captured.prepare(recipe)
        check_plan(prepared)
        set_ranges(prepared, self.samples, None)
        judge = Judge(prepared, self.batches, self.metrics)
        self.float = judge.reference
        return judge

    def _float(self) -> Score:
        return self.float or self._judge(load_recipe("static_wi8_ai8")).reference


def _left_float(plan: Plan, name: str) -> str:
    """Return why the plan leaves all operators of a scope float; empty where it does not."""
    ops = [p for p in plan.ops if p.op.layer == name]
    return "" if any(p.integer or p.stored for p in ops) else next((p.reason for p in ops if p.reason), "")


def _variant(plan: Plan, name: str) -> Variant:
    """Return all roundings of a scope, whatever the kinds of its operators."""
    return {op: rounding for layer in layers_of(plan) if layer.name == name for op, rounding in layer.variant("both").items()}

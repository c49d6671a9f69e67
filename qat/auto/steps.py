"""The steps of a search, the cheapest first: what each changes, what it costs, and when the evidence says that it can help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qat.planning.recipe import Recipe, Rule
from qat.runs.config import RunConfig
from qat.typing import Estimator

from .bench import Bench, mixed_precisions, without_sensitive_layers
from .choices import Choices
from .evidence import Evidence
from .journal import Attempt

#: Below this share of the noise a source of it is not worth a step.
_SMALL = 0.2
#: From this share on, a source of noise dominates.
_MOST = 0.5
#: The widest channel's range over the middle one's, from which one scale in all wastes two bits of the middle one.
_UNEVEN = 4.0
#: The same of the channels between two layers, from which one scale for the activation wastes four.
_APART = 16.0
#: Of fewer layers none can be left out.
_FEW = 3
#: The share of the noise that is a constant shift, from which biases are worth correcting.
_SHIFTED = 0.05


@dataclass(frozen=True)
class Situation:
    """What is known before a step.

    Attributes:
        config: of the run.
        evidence: of the first step's model.
        attempts: the steps before it.
        best: what made the best artifact so far.
        labelled: whether the data have labels.
    """

    config: RunConfig
    evidence: Evidence
    attempts: Sequence[Attempt]
    best: Choices
    labelled: bool


@dataclass(frozen=True)
class Advice:
    """Whether a step can help, and why, in words."""

    helps: bool
    why: str


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        name: in the journal, and of the artifact.
        does: what it builds, in words.
        cost: what it takes besides one calibration and one evaluation, in words; empty for nothing.
        change: makes the choices of the best so far the step's own; it may measure for that.
        advice: whether it can help.
        mends: the causes of :mod:`qat.analysis.diagnosis` that it mends: of a model with one of these it comes first.
        rounds: whether AdaRound runs.
        tells_apart: whether the layers are told apart by their sensitivity.
        trains: whether the model is trained.
    """

    name: str
    does: str
    cost: str
    change: Callable[[Choices, Bench], Choices]
    advice: Callable[[Situation], Advice]
    mends: tuple[str, ...] = ()
    rounds: bool = False
    tells_apart: bool = False
    trains: bool = False


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _static(now: Situation) -> bool:
    return any(rule.mode == "static" for rule in now.best.recipe.rules)


def _first(now: Situation) -> Advice:
    return Advice(True, "the configuration's own recipe, the cheapest of all")


def _by_estimator(name: Estimator) -> Callable[[Situation], Advice]:
    def advice(now: Situation) -> Advice:
        noise = now.evidence.activations
        taken = {now.config.calibration.estimator} if now.config.calibration.estimator else _estimators(now.best.recipe)
        if not _static(now):
            return Advice(False, "the recipe has no calibrated ranges")
        if taken == {name}:
            return Advice(False, "the first step took this estimator")
        if noise < _SMALL:
            return Advice(False, f"quantizing activations makes {_percent(noise)} of the noise: their ranges matter little")
        return Advice(True, f"quantizing activations makes {_percent(noise)} of the noise: other ranges may make less")

    return advice


def _estimators(recipe: Recipe) -> set[str]:
    return {rule.activation.estimator for rule in recipe.rules if rule.mode == "static"}


def _equalization(now: Situation) -> Advice:
    found = now.evidence
    if now.best.equalize:
        return Advice(False, "the configuration equalizes already")
    if not found.pairs:
        return Advice(False, "no two layers follow each other so that channels could be rescaled")
    if found.spread >= _UNEVEN:
        return Advice(True, f"under one weight scale the widest channel is {found.spread:.0f} times the middle one")
    if found.apart >= _APART:
        return Advice(True, f"between two layers the widest channel is {found.apart:.0f} times the middle one, under one scale")
    one = f"{found.spread:.1f} times the middle one under one weight scale, and " if found.spread > 1 else ""
    return Advice(False, f"channels are even: the widest is {one}{found.apart:.1f} times the middle one between two layers")


def _bias_correction(now: Situation) -> Advice:
    found = now.evidence
    if now.best.bias_correction:
        return Advice(False, "the configuration corrects biases already")
    if found.shift < _SHIFTED:
        return Advice(False, f"{_percent(found.shift)} of the noise is a constant shift: biases are right")
    return Advice(True, f"{_percent(found.shift)} of the noise is a constant shift of the outputs")


def _adaround(now: Situation) -> Advice:
    noise = now.evidence.weights
    if not _static(now):
        return Advice(False, "AdaRound is for layers with integer inputs")
    if noise < _MOST:
        return Advice(False, f"quantizing weights makes {_percent(noise)} of the noise: their rounding does not dominate")
    return Advice(True, f"quantizing weights makes {_percent(noise)} of the noise")


def _reconstruction(now: Situation) -> Advice:
    if not _static(now):
        return Advice(False, "reconstruction is for layers with integer inputs")
    if now.best.reconstruct:
        return Advice(False, "the configuration reconstructs blocks already")
    return Advice(True, f"{_percent(now.evidence.weights)} of the noise is of weights: roundings and scales are learned together")


def _float_residual(now: Situation) -> Advice:
    found = now.evidence
    if not found.stream:
        return Advice(False, "the model has no residual stream in integers")
    if found.activations < _SMALL:
        return Advice(
            False, f"quantizing activations makes {_percent(found.activations)} of the noise: the stream matters little"
        )
    said = f"quantizing activations makes {_percent(found.activations)} of the noise"
    return Advice(True, f"{found.stream} operators of the residual stream are quantized, and {said}")


def _sensitive_layers(now: Situation) -> Advice:
    if not _static(now) or now.evidence.layers < _FEW:
        return Advice(False, f"{now.evidence.layers} integer layers are too few to tell apart")
    return Advice(True, "a few layers often make most of the noise")


def _qat(now: Situation) -> Advice:
    if not now.labelled:
        return Advice(True, "nothing cheaper reached the goal; without labels it learns the float model's outputs")
    return Advice(True, "nothing cheaper reached the goal")


def _distillation(now: Situation) -> Advice:
    if not now.labelled or now.config.training.teacher is not None:
        return Advice(False, "the training before it learned from the float model already")
    trained = next((a for a in now.attempts if a.step == "qat"), None)
    if trained is None or trained.outcome != "tried":
        return Advice(False, "QAT itself was not tried")
    return Advice(True, "QAT on labels alone did not reach the goal: the float model's outputs say more than a label")


def _ptq(estimator: Estimator, *mends: str) -> Step:
    does = f"PTQ with ranges by '{estimator}'"
    return Step(f"ptq_{estimator}", does, "", lambda c, _: replace(c, estimator=estimator), _by_estimator(estimator), mends)


def _untreated(choices: Choices) -> Choices:
    """Return the choices from which training starts: it learns roundings and biases itself."""
    return replace(choices, bias_correction=False, adaround=False, reconstruct=False)


#: The steps in their order.
STEPS: tuple[Step, ...] = (
    Step("ptq", "PTQ as the configuration says", "", lambda c, _: c, _first),
    Step(
        "equalization", "cross-layer equalization", "", lambda c, _: replace(c, equalize=True), _equalization,
        mends=("weight_channel",),
    ),
    _ptq("mse", "outlier_range", "loose_range"),
    _ptq("percentile", "outlier_range", "loose_range"),
    _ptq("entropy"),
    _ptq("minmax", "saturated_range", "output_range"),
    Step(
        "bias_correction", "bias correction", "one pass a layer", lambda c, _: replace(c, bias_correction=True), _bias_correction,
    ),
    Step(
        "float_residual", "the residual stream in float", "",
        lambda c, _: c.with_rules("float_residual", Rule(role="residual", mode="float")), _float_residual,
        mends=("residual_stream",),
    ),
    Step(
        "adaround", "AdaRound", "1,000 steps a layer", lambda c, _: replace(c, adaround=True, bias_correction=False), _adaround,
        rounds=True,
    ),
    Step(
        "reconstruction", "block reconstruction (BRECQ)", "300 steps a block",
        lambda c, _: replace(c, reconstruct=True, adaround=False, bias_correction=False), _reconstruction,
    ),
    Step(
        "sensitive_layers", "the most sensitive layers in higher precision", "10 evaluations and up to 7 calibrations",
        without_sensitive_layers, _sensitive_layers, tells_apart=True,
    ),
    Step(
        "mixed_precision", "each layer in 8 bits, 16, float16 or float", "1 to 2 evaluations a layer and up to 7 calibrations",
        mixed_precisions, _sensitive_layers, tells_apart=True,
    ),
    Step("qat", "QAT", "epochs", lambda c, _: replace(_untreated(c), training="labels"), _qat, trains=True),
    Step(
        "distillation", "QAT with the float model as teacher", "epochs", lambda c, _: replace(_untreated(c), training="teacher"),
        _distillation, trains=True,
    ),
)  # fmt: skip

"""Why a quantized file is off: one small function a cause, in a table, over the measured facts.

A cause is announced where its evidence is beyond its threshold *and* its steps make a share of the outputs' error that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .finding import Evidence, Finding, Remedy
from .measured import Facts, StepFacts, WeightFacts

#: An output that is this close to float is not looked at for causes, in dB; 8-bit networks without a fault reach 25 and more.
HEALTHY = 30.0
#: The least share of the outputs' error that the steps of a cause make.
LEAST_SHARE = 0.15
#: Below this a mechanism alone (clipping, rounding, saturation) spoils a tensor, in dB. 8 bits without a fault have 35 and more.
SPOILED = 25.0
#: Fewer samples than these tell little of an accuracy.
FEW_SAMPLES = 100

_CHANNELS = 16.0
_LOOSE = 3.0
_OUTLIERS = 8.0
_SAME, _UNLIKE = 0.7, 0.3
_LOST = 10.0
_GAIN = 1.2
_PRESCRIBED = 20.0
_DEAD = 0.02

Found = Evidence | None


@dataclass(frozen=True)
class Cause:
    """A row of the table.

    Attributes:
        name: stable, for programs.
        title: in a few words.
        find: returns the evidence, or None.
        remedy: what mends it.
    """

    name: str
    title: str
    find: Callable[[Facts], Found]
    remedy: Remedy


def _worst(steps: Iterable[tuple[StepFacts, float]], threshold: float, says: str, least: bool = True) -> Found:
    """Return the evidence of steps with their figures, the worst first; None of none. ``says`` is formatted with both."""
    found = sorted(steps, key=lambda pair: pair[1] if least else -pair[1])
    if not found:
        return None
    step, figure = found[0]
    where = f"'{step.name}'" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
    return Evidence(tuple(s.name for s, _ in found), figure, threshold, says.format(step=step, figure=figure, where=where))


def _is_inner(step: StepFacts) -> bool:
    return step.kind != "input" and not step.is_output


def _extent(limits: tuple[float, float]) -> float:
    return max(abs(limits[0]), abs(limits[1]), 1e-30)


def _looseness(step: StepFacts) -> float:
    """Return by how much a grid's range exceeds the values."""
    limits = step.values.range
    return 1.0 if limits is None else _extent(limits) / _extent((step.values.low, step.values.high))


def _is_loose(step: StepFacts) -> bool:
    return step.values.rounding_sqnr < SPOILED and _looseness(step) > _LOOSE


def _is_off(step: StepFacts) -> bool:
    """Whether a step alone is far from float: a gate that hardly varies may be constant and yet right."""
    return step.own_sqnr < HEALTHY


def _is_clipped(step: StepFacts) -> bool:
    return step.values.clip_sqnr < SPOILED


def _coarse(weight: WeightFacts | None) -> bool:
    return weight is not None and not weight.per_channel and weight.channel_ratio > _CHANNELS and weight.bits <= 8


# -- the causes


def _input_preprocessing(facts: Facts) -> Found:
    wrong = [s for s in facts.steps if s.kind == "input" and (_is_clipped(s) or _is_loose(s))]
    if not wrong:
        return None
    # The ranges within the network were found on the same wrong data.
    fault = _is_clipped if _is_clipped(wrong[0]) else _is_loose
    worst = wrong[0].values.clip_sqnr if fault is _is_clipped else wrong[0].values.rounding_sqnr
    says = (
        "input '{step.name}' holds {step.values.range[0]:.4g} to {step.values.range[1]:.4g}, the data are {step.values.low:.4g} "
        "to {step.values.high:.4g}: {figure:.1f} dB are left at the first tensor"
    )
    rest = [(s, SPOILED) for s in facts.steps if s is not wrong[0] and (s in wrong or fault(s))]
    return _worst([(wrong[0], worst), *rest], SPOILED, says)


def _bias_overflow(facts: Facts) -> Found:
    def figure(step: StepFacts) -> float:
        return 0.0 if step.weight is None else max(step.weight.largest_bias, step.weight.stored_bias)

    wrong = [(s, figure(s)) for s in facts.steps if figure(s) >= 0.999]
    return _worst(wrong, 1.0, "a bias of {where} is {figure:.3g} times the limit of int32 on its accumulator's grid", least=False)


def _other_weights(facts: Facts) -> Found:
    def is_other(step: StepFacts) -> bool:
        if step.weight is None or _coarse(step.weight) or step.values.rounding_sqnr < _LOST:
            return False
        if step.dead or _is_clipped(step) or _is_loose(step):
            return step.correlation < _UNLIKE
        return step.correlation < _SAME or not 1 / _GAIN < step.gain < _GAIN

    wrong = [(s, s.correlation) for s in facts.steps if is_other(s)]
    if not wrong:
        return None
    # The ranges are the other weights' too.
    rest = [(s, 1.0) for s in facts.steps if s not in [w for w, _ in wrong] and (s.dead or _is_clipped(s) or _is_loose(s))]
    says = (
        "on the same inputs the results of '{step.name}' have a correlation of {figure:.2f} with the float file's, and are "
        "{step.gain:.2f} times as large"
    )
    return _worst([*wrong, *rest], _SAME, says)


def _weight_channel(facts: Facts) -> Found:
    wrong = [(s, s.weight.channel_ratio) for s in facts.steps if s.weight is not None and _coarse(s.weight)]
    says = "the largest channel of the weight of {where} is {figure:.0f} times the median one, and both share a scale"
    return _worst(wrong, _CHANNELS, says, least=False)


def _residual_stream(facts: Facts) -> Found:
    def feeds_norm(step: StepFacts) -> bool:
        return step.kind == "add" and ("layer_norm" in step.feeds or {"mean", "sub"} <= set(step.feeds))

    wrong = [
        (s, s.values.rounding_sqnr)
        for s in facts.steps
        if feeds_norm(s) and s.values.rounding_sqnr < SPOILED and not _is_loose(s)
    ]
    says = (
        "the residual stream at {where} keeps {figure:.1f} dB of its median channel in 8 bits: its largest channel is "
        "{step.values.channel_ratio:.0f} times that"
    )
    return _worst(wrong, SPOILED, says)


def _prescribed_scale(facts: Facts) -> Found:
    kinds = ("softmax", "sigmoid", "tanh")
    found = [(s, min(s.own_sqnr, s.values.rounding_sqnr)) for s in facts.steps if s.kind in kinds and s.values.range is not None]
    wrong = [(s, left) for s, left in found if left < _PRESCRIBED and _is_off(s)]
    says = (
        "{step.kind} {where} keeps {figure:.1f} dB: its grid holds {step.values.range[0]:.3g} to {step.values.range[1]:.3g}, and "
        "99.9 % of its values lie below {step.values.typical[1]:.3g}"
    )
    return _worst(wrong, _PRESCRIBED, says)


def _output_range(facts: Facts) -> Found:
    ends = [s for s in facts.steps if s.is_output and s.kind != "input" and (_is_clipped(s) or _is_loose(s))]
    says = (
        "output {where} holds {step.values.range[0]:.4g} to {step.values.range[1]:.4g}, its values are {step.values.low:.4g} to "
        "{step.values.high:.4g}: at best {figure:.1f} dB"
    )
    return _worst([(s, min(s.values.clip_sqnr, s.values.rounding_sqnr)) for s in ends], SPOILED, says)


def _saturated_range(facts: Facts) -> Found:
    wrong = [(s, s.values.clipped) for s in facts.steps if _is_inner(s) and _is_clipped(s)]
    says = "{figure:.1%} of the values of {where} lie outside its range, and are clipped: {step.values.clip_sqnr:.1f} dB are left"
    return _worst(wrong, SPOILED, says, least=False)


def _outlier_range(facts: Facts) -> Found:
    def figure(step: StepFacts) -> float:
        return 0.0 if step.values.range is None else _extent(step.values.range) / _extent(step.values.typical)

    def ruled(step: StepFacts) -> bool:
        return step.values.rounding_sqnr < SPOILED and not _is_loose(step) and figure(step) > _OUTLIERS

    wrong = [(s, figure(s)) for s in facts.steps if _is_inner(s) and ruled(s)]
    return _worst(wrong, _OUTLIERS, "the range of {where} is {figure:.0f} times what 99.9 % of its values need", least=False)


def _loose_range(facts: Facts) -> Found:
    wrong = [(s, _looseness(s)) for s in facts.steps if _is_inner(s) and _is_loose(s)]
    return _worst(wrong, _LOOSE, "the range of {where} is {figure:.1f} times its largest value on the data", least=False)


def _dead_channels(facts: Facts) -> Found:
    wrong = [
        (s, s.dead / s.channels)
        for s in facts.steps
        if s.dead
        and s.dead / s.channels >= _DEAD
        and _is_off(s)
        and not _coarse(s.weight)
        and not _is_clipped(s)
        and not _is_loose(s)
    ]
    says = "{step.dead} of {step.channels} channels of {where} are constant in the quantized file, and vary in the float one"
    return _worst(wrong, _DEAD, says, least=False)


def _saturating_pairs(facts: Facts) -> Found:
    wrong = [(s, s.weight.saturation_sqnr) for s in facts.steps if s.weight is not None and s.weight.saturation_sqnr < SPOILED]
    here = "as this machine's does" if facts.without_vnni else "this machine's has it"
    says = (
        "sums of two products in {where} saturate in 16 bits on an x86 processor without VNNI ("
        + here
        + "): {step.weight.saturated:.2%} of them, {figure:.1f} dB are left"
    )
    return _worst(wrong, SPOILED, says)


def _too_little_data(facts: Facts) -> Found:
    if facts.samples >= FEW_SAMPLES:
        return None
    says = f"nothing is wrong that {facts.samples} samples show"
    if facts.same is not None:
        from qat.report.statistics import wilson

        least, _ = wilson(100 * facts.same / facts.samples, facts.samples)
        says += f": {facts.samples - facts.same} answers differ from float's, and up to {100 - least:.0f} % may"
    return Evidence((), facts.samples, FEW_SAMPLES, says)


_ANEW = "quantize the float file again, on these data"
#: The causes, the telling ones first: of causes that explain the same steps the first one is named.
CAUSES: Sequence[Cause] = (
    Cause(
        "input_preprocessing", "the input is quantized for another preprocessing", _input_preprocessing,
        Remedy("calibrate on data that are preprocessed as at inference", estimator="minmax"),
    ),
    Cause(
        "bias_overflow", "a bias is beyond int32", _bias_overflow,
        Remedy("quantize with qat, which widens the scale of such a channel"),
    ),
    Cause(
        "other_weights", "the weights are not those of the float file", _other_weights,
        Remedy("quantize the float file that belongs to it, or compare with that one"),
    ),
    Cause(
        "weight_channel", "one weight scale for channels of very different size", _weight_channel,
        Remedy("give each channel a scale", recipe="static_wi8_ai8"),
    ),
    Cause(
        "residual_stream", "the residual stream of a transformer is quantized", _residual_stream,
        Remedy("keep the residual stream in float", recipe="static_wi8_ai8_float_residual"),
    ),
    Cause(
        "prescribed_scale", "a softmax, sigmoid or tanh loses its values at its prescribed scale", _prescribed_scale,
        Remedy("keep these operators in float", rules=("op=softmax,mode=float", "op=sigmoid,mode=float", "op=tanh,mode=float")),
    ),
    Cause("output_range", "the range of an output is wrong", _output_range, Remedy(_ANEW, estimator="minmax")),
    Cause("saturated_range", "a range is too narrow", _saturated_range, Remedy(_ANEW, estimator="minmax")),
    Cause(
        "outlier_range", "a range is ruled by outliers", _outlier_range,
        Remedy("let the estimator leave outliers out", estimator="mse"),
    ),
    Cause("loose_range", "a range is far too wide", _loose_range, Remedy(_ANEW, estimator="minmax")),
    Cause("dead_channels", "channels are dead", _dead_channels, Remedy(_ANEW)),
)  # fmt: skip

#: Told of files whose outputs are fine here: wrong on other processors.
ELSEWHERE: Sequence[Cause] = (
    Cause(
        "saturating_pairs", "sums saturate on processors without VNNI", _saturating_pairs,
        Remedy("take weights of 7 bits", target="onnxruntime"),
    ),
)  # fmt: skip

#: Told where there is no other.
LAST: Sequence[Cause] = (
    Cause(
        "too_little_data", "too little data to see a difference", _too_little_data,
        Remedy(f"give at least {FEW_SAMPLES} samples", applies=False),
    ),
)  # fmt: skip


def findings_of(facts: Facts) -> tuple[Finding, ...]:
    """Return the causes of an error, the one that explains the largest share first; none of files without a fault."""
    found = (
        []
        if facts.spread_sqnr >= HEALTHY
        else [f for cause in CAUSES if (f := _finding(cause, facts)) and f.share >= LEAST_SHARE]
    )
    # A share within a fifth of another's is the same: then the table's order stands.
    best = max((finding.share for finding in found), default=0.0)
    found.sort(key=lambda finding: finding.share < 0.8 * best)
    for causes in (ELSEWHERE, LAST):
        if causes is ELSEWHERE or not found:
            found += [f for cause in causes if (f := _finding(cause, facts))]
    return tuple(found)


def _finding(cause: Cause, facts: Facts) -> Finding | None:
    evidence = cause.find(facts)
    if evidence is None:
        return None
    named = set(evidence.steps)
    share = sum(step.share or 0.0 for step in facts.steps if step.name in named)
    return Finding(cause.name, cause.title, share, evidence, cause.remedy)

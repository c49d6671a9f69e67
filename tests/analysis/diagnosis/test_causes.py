"""Each cause is told from figures, in the order of the error that its steps make."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qat.analysis.diagnosis.causes import CAUSES, findings_of
from qat.analysis.diagnosis.measured import Facts, StepFacts, ValueFacts, WeightFacts
from qat.analysis.diagnosis.result import Diagnosis
from qat.analysis.diagnosis.saturation import saturation, windows_of

VALUES = ValueFacts(
    low=0.0, high=6.0, typical=(0.0, 5.0), range=(0.0, 6.0), clipped=0.0, clip_sqnr=math.inf, rounding_sqnr=38.0,
    channel_ratio=2.0,
)  # fmt: skip
WEIGHT = WeightFacts(bits=8, per_channel=True, channel_ratio=2.0)


def step(name, kind, share, inputs=(), weight=None, feeds=(), is_output=False):
    return StepFacts(
        name=name, quantized_name=name, kind=kind, inputs=inputs, feeds=feeds, is_output=is_output, sqnr=40.0, own_sqnr=40.0,
        share=share, channels=16, dead=0, correlation=1.0, gain=1.0, values=VALUES, weight=weight,
    )  # fmt: skip


HEALTHY = {
    "x": step("x", "input", 0.1),
    "conv": step("conv", "conv", 0.3, ("x",), WEIGHT),
    "add": step("add", "add", 0.2, ("conv",), feeds=("layer_norm",)),
    "softmax": step("softmax", "softmax", 0.1, ("add",)),
    "head": step("head", "dense", 0.3, ("softmax",), WEIGHT, is_output=True),
}


def facts(spread=10.0, samples=200, **changed):
    """Return facts of a network whose named steps are changed, and make most of the error."""
    found = []
    for name, healthy in HEALTHY.items():
        change = changed.get(name, {})
        values = replace(VALUES, **_those_of(ValueFacts, change))
        weight = healthy.weight and replace(healthy.weight, **_those_of(WeightFacts, change))
        own = _those_of(StepFacts, change)
        found.append(replace(healthy, values=values, weight=weight, share=0.9 if change else 0.02, **own))
    return Facts(tuple(found), (), 12.0, spread, samples, same=samples - 20)


def _those_of(kind, change):
    return {name: value for name, value in change.items() if name in kind.__dataclass_fields__}


FAULTS = {
    "input_preprocessing": {"x": {"range": (0.0, 255.0), "rounding_sqnr": 5.0}},
    "bias_overflow": {"conv": {"largest_bias": 20.0}},
    "other_weights": {"conv": {"correlation": 0.1}},
    "weight_channel": {"conv": {"per_channel": False, "channel_ratio": 100.0}},
    "residual_stream": {"add": {"rounding_sqnr": 8.0, "channel_ratio": 90.0}},
    "prescribed_scale": {"softmax": {"own_sqnr": 6.0, "range": (0.0, 0.996)}},
    "output_range": {"head": {"clip_sqnr": 6.0, "clipped": 0.2}},
    "saturated_range": {"conv": {"clip_sqnr": 9.0, "clipped": 0.1}},
    "outlier_range": {"conv": {"high": 90.0, "range": (0.0, 90.0), "rounding_sqnr": 12.0}},
    "loose_range": {"conv": {"range": (0.0, 90.0), "rounding_sqnr": 12.0}},
    "dead_channels": {"conv": {"dead": 4, "own_sqnr": 12.0}},
}


def test_every_cause_has_a_fault_here():
    assert {cause.name for cause in CAUSES} == set(FAULTS)


@pytest.mark.parametrize("cause", FAULTS)
def test_a_cause_is_named_by_its_figures(cause):
    found = findings_of(facts(**FAULTS[cause]))
    assert found[0].cause == cause
    assert found[0].share >= 0.9


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_that_makes_no_error_is_no_cause(cause):
    assert findings_of(facts(spread=35.0, **FAULTS[cause])) == ()


def test_a_file_without_a_fault_gets_no_cause_however_far_it_is():
    assert findings_of(facts()) == ()


def test_a_gate_that_hardly_varies_is_no_fault():
    """A sigmoid of nearly one value has few steps for what varies of it, and is right all the same."""
    assert findings_of(facts(softmax={"rounding_sqnr": -7.0, "own_sqnr": 42.0})) == ()
    assert findings_of(facts(conv={"dead": 6, "own_sqnr": 42.0})) == ()


def test_few_samples_are_named_only_where_nothing_is_wrong():
    few = findings_of(facts(samples=30))
    assert [f.cause for f in few] == ["too_little_data"]
    assert "20 answers differ from float's, and up to 81 % may" in few[0].evidence.says
    assert findings_of(facts(samples=30, **FAULTS["saturated_range"]))[0].cause == "saturated_range"


def test_of_two_causes_the_one_that_makes_more_of_the_error_is_first():
    both = facts(**FAULTS["saturated_range"], **FAULTS["output_range"])
    shares = {"conv": 0.2, "head": 0.7}
    small = replace(both, steps=tuple(replace(s, share=shares.get(s.name, 0.02)) for s in both.steps))
    assert [f.cause for f in findings_of(small)] == ["output_range", "saturated_range"]


def test_a_diagnosis_says_what_mends_it():
    found = facts(**FAULTS["weight_channel"])
    diagnosis = Diagnosis("net.onnx", "int8.onnx", "200 samples", "x.npz", found, findings_of(found))
    text = str(diagnosis)
    assert "the largest channel of the weight of 'conv' is 100 times the median one" in " ".join(text.split())
    assert "qat quantize net.onnx --data x.npz --recipe static_wi8_ai8" in text
    assert diagnosis.to_dict()["cause"] == "weight_channel"


def test_sums_of_two_products_saturate_as_the_instruction_does():
    rng = np.random.default_rng(0)
    windows, weight = rng.integers(0, 256, (20, 7), np.uint8), rng.integers(-127, 128, (3, 7)).astype(np.int8)
    saturated, exact, wrong = 0, np.zeros((20, 3)), np.zeros((20, 3))
    for n in range(20):
        for c in range(3):
            for k in range(0, 7, 2):
                pair = sum(int(windows[n, i]) * int(weight[c, i]) for i in (k, k + 1) if i < 7)
                saturated += not -32768 <= pair <= 32767
                exact[n, c] += pair
                wrong[n, c] += min(max(pair, -32768), 32767)
    share, left = saturation(windows, weight)
    assert share == saturated / (20 * 3 * 4)
    assert left == pytest.approx(10 * np.log10(np.square(exact - exact.mean(0)).mean() / np.square(exact - wrong).mean()))


def test_windows_are_what_a_convolution_reads():
    rng = np.random.default_rng(0)
    x, weight = rng.integers(0, 256, (2, 3, 6, 6)).astype(np.uint8), rng.integers(-9, 9, (4, 3, 3, 3))
    attributes = {"strides": [2, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    found = windows_of(x, weight, attributes, 7) @ np.moveaxis(weight, 1, -1).reshape(4, -1).T
    import torch

    padded = torch.nn.functional.pad(torch.from_numpy(x.astype(np.float64)), (1, 1, 1, 1), value=7)
    exact = torch.nn.functional.conv2d(padded, torch.from_numpy(weight.astype(np.float64)), stride=(2, 1))
    np.testing.assert_array_equal(found, exact.numpy().transpose(0, 2, 3, 1).reshape(-1, 4))

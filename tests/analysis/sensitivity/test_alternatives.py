"""Layers under other rules: fewer bits cost more, and what a target cannot run is said."""

import numpy as np
import pytest

from qat.analysis.sensitivity.alternatives import Alternative, measure_alternatives
from qat.errors import ConfigError
from qat.planning.recipe import QuantSpec, Rule
from support.nets import digits, layout, net

EIGHT = Rule()
FOUR = Rule(weight=QuantSpec(bits=4, symmetric=True, granularity="channel"))
SIXTEEN = Rule(activation=QuantSpec(bits=16, symmetric=True))
HALF = Rule(mode="float16")
FLOAT = Rule(mode="float")


def batches(framework):
    return [(x, y) for x, y in digits().batches("test", 100, layout(framework))]


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_each_layer_under_each_rule(framework):
    model = net(framework)
    named = ("0", "5") if framework == "torch" else [layer.name for layer in model.layers if layer.weights]  # Keras counts on
    first, last = named[0], named[-1]
    rules = (EIGHT, FOUR, HALF, FLOAT)
    asked = [Alternative(layer, rule) for rule in rules for layer in (first, last)]
    found = measure_alternatives(model, batches(framework), asked, target="litert")
    assert [f.alternative for f in found] == asked
    loss = {(f.alternative.layer, f.alternative.rule): f.score.loss for f in found}
    for layer in (first, last):
        assert loss[layer, FOUR] > 4 * loss[layer, EIGHT] > 0
        assert loss[layer, HALF] < 0.01 * loss[layer, EIGHT] and loss[layer, FLOAT] == 0
    assert all(set(f.score.metrics) == {"top1"} for f in found)
    assert all(f.score.drop_low <= f.score.drop <= f.score.drop_high for f in found)


def test_a_rule_that_the_target_cannot_run_has_a_reason():
    (found,) = measure_alternatives(net("torch"), batches("torch"), [Alternative("0", SIXTEEN)], target="onnxruntime")
    assert found.score is None and "needs 16-bit kernels" in found.reason


def test_a_layer_that_stays_float_has_a_reason():
    import torch
    from torch import nn

    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Hardtanh(-0.5, 0.5), nn.Flatten(), nn.Linear(16, 4))
    x = np.random.default_rng(0).normal(size=(32, 1, 4, 4, 4)).astype(np.float32)
    torch.manual_seed(0)
    found = measure_alternatives(model, [x], [Alternative("0", EIGHT), Alternative("3", EIGHT)], target="litert")
    assert found[0].score is None and "no integer kernel for conv3d" in found[0].reason
    assert found[1].score is not None and "same_answers" in found[1].score.metrics


def test_an_unknown_layer_is_named():
    with pytest.raises(ConfigError, match="the model has no layer '9'"):
        measure_alternatives(net("torch"), batches("torch"), [Alternative("9", EIGHT)])

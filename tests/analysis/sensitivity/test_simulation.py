"""The door of the adapters to single roundings: all of them together are the integer model, each is what first order says."""

import numpy as np
import pytest

from qat.analysis.sensitivity.layers import INPUT, layers_of
from qat.frameworks import adapter_for
from qat.planning.rounding import Rounding
from support.nets import digits, layout, prepared

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def simulated(framework, variants, recipe="static_wi8_ai8", target=None):
    model = prepared(framework, recipe=recipe, target=target)
    adapter = adapter_for(framework)
    inputs = adapter.inputs_of((next(iter(digits().batches("test", 32, layout(framework))))[0],))
    made = variants(model.plan)
    return model, inputs, made, dict(adapter.simulate(model, inputs, made))


def everything(plan):
    return {name: rounding for layer in layers_of(plan) for name, rounding in layer.variant("both").items()}


@FRAMEWORKS
def test_all_roundings_together_are_the_integer_model_and_none_is_the_float_one(framework):
    model, inputs, _, outputs = simulated(framework, lambda plan: [{}, everything(plan)])
    adapter = adapter_for(framework)
    step = float(model.grids[model.plan.group_of[model.plan.graph.outputs[0]]].encoding.scale)
    (whole,) = adapter.forward(model, inputs)
    float_before = prepared(framework)
    for grid in adapter.grids(float_before).values():
        grid.calibrating = True
        grid.mode = type(grid.mode).CALIBRATING
    np.testing.assert_allclose(outputs[0][0], adapter.forward(float_before, inputs)[0], atol=1e-6)
    assert np.abs(outputs[1][0] - whole).max() <= 1.01 * step < np.abs(outputs[0][0] - whole).max()


@FRAMEWORKS
def test_a_rounding_moves_the_outputs_as_first_order_says(framework):
    def one_by_one(plan):
        return [layer.variant("both") for layer in layers_of(plan)]

    model, inputs, variants, outputs = simulated(framework, lambda plan: [{}, *one_by_one(plan)])
    random = np.random.default_rng(0).normal(size=outputs[0][0].shape)
    found = adapter_for(framework).first_order(model, inputs, variants, lambda floats: [(random,)])
    assert found.shape == (1, len(variants), 32)
    for index in range(1, len(variants)):
        exact = ((outputs[index][0] - outputs[0][0]) * random).sum(1)
        assert np.abs(exact - found[0, index]).mean() < 0.05 * np.abs(exact).mean()
    assert not found[0, 0].any()


@FRAMEWORKS
def test_weight_and_activation_are_told_apart(framework):
    def parts(plan):
        last = layers_of(plan)[-1]
        return [{}, last.variant("weight"), last.variant("activation"), last.variant("both")]

    model, _, _, outputs = simulated(framework, parts)
    step = float(model.grids[model.plan.group_of[model.plan.graph.outputs[0]]].encoding.scale)
    float_, weight, activation, both = (outputs[i][0] for i in range(4))
    assert 0 < np.quantile(np.abs(activation - float_), 0.95) <= step / 2 * 1.001  # a test image may lie beyond the range
    np.testing.assert_allclose(activation / step, np.rint(activation / step), atol=1e-3)
    assert np.abs(weight - float_).max() > 0 and not np.allclose(weight / step, np.rint(weight / step), atol=1e-3)
    assert np.quantile(np.abs(both - weight), 0.95) <= step / 2 * 1.001


@FRAMEWORKS
@pytest.mark.parametrize("recipe", ["weightonly_wi8_afp32", "dynamic_wi8_afp32", "float16"])
def test_stored_weights_are_float_until_they_are_rounded(framework, recipe):
    def variants(plan):
        names = [p.op.name for p in plan.ops if p.stored]
        return [{}, {name: Rounding(weight=True, activation=True) for name in names}]

    model, inputs, _, outputs = simulated(framework, variants, recipe, "litert")
    adapter = adapter_for(framework)
    np.testing.assert_allclose(outputs[1][0], adapter.forward(model, inputs)[0], rtol=1e-4, atol=1e-5)
    float_ = dict(adapter.simulate(prepared(framework), inputs, [{}]))
    np.testing.assert_allclose(outputs[0][0], float_[0][0], rtol=1e-4, atol=1e-5)
    assert np.abs(outputs[1][0] - outputs[0][0]).max() > 1e-5


@FRAMEWORKS
def test_layers_are_weights_own_scales_and_the_input(framework):
    layers = layers_of(prepared(framework).plan)
    assert [layer.kind for layer in layers] == [INPUT, "conv2d", "conv2d", "dense"]
    assert all(layer.weight and layer.activation for layer in layers[1:]) and not layers[0].weight


def test_the_model_is_left_as_it_was():
    import torch

    model = prepared("torch").train()
    adapter = adapter_for("torch")
    x = adapter.inputs_of((next(iter(digits().batches("test", 8, "NCHW")))[0],))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    variants = [layer.variant("both") for layer in layers_of(model.plan)]
    assert len([*adapter.simulate(model, x, variants)]) == len(variants)
    adapter.first_order(model, x, variants, lambda outputs: [outputs])
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

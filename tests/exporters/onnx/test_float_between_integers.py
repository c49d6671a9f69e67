"""An operator that is float between integer kernels stays so in ONNX Runtime, which would round its weight and its bias."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qat
from qat.planning.recipe import QuantSpec, Recipe, Rule


def convolutions(clip):
    return nn.Sequential(nn.Conv2d(3, 8, 3), clip(), nn.Conv2d(8, 8, 3), clip(), nn.Conv2d(8, 4, 1)), (64, 3, 8, 8)


def dense():
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), (64, 16)


SLOW = (pytest.mark.slow,)


@pytest.mark.parametrize(
    ("make", "options"),
    [(dense, ()), pytest.param(convolutions, (nn.ReLU,), marks=SLOW), pytest.param(convolutions, (nn.ReLU6,), marks=SLOW)],
)
def test_a_float_weight_between_integer_kernels_is_not_rounded(make, options, tmp_path):
    torch.manual_seed(0)
    net, shape = make(*options)
    with torch.no_grad():
        net[2].weight[:, 0] = 0
        net[2].weight[0, 0] = 100.0  # one scale in all leaves the other weights at zero
        net[0].weight[0] = 0
        net[0].bias[0] = 0
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = qat.calibrate(qat.prepare(net, x, Recipe(name="float_middle", rules=(Rule(), Rule(scope="^2$", mode="float")))), [x])
    artifact = qat.export(model, tmp_path / "model.onnx", [x])
    assert artifact.parity.mean_lsb < 1e-3


@pytest.mark.parametrize(
    ("make", "options", "rule"),
    [
        (dense, (), {"mode": "weight_only"}),
        (dense, (), {"mode": "weight_only", "weight": QuantSpec(bits=4, symmetric=True)}),
        (dense, (), {"mode": "float16"}),
        pytest.param(convolutions, (nn.ReLU6,), {"mode": "weight_only"}, marks=SLOW),
    ],
)
def test_a_stored_weight_between_integer_kernels_has_a_float_kernel(make, options, rule, tmp_path):
    torch.manual_seed(0)
    net, shape = make(*options)
    x = np.random.default_rng(0).normal(size=(512, *shape[1:])).astype(np.float32)
    recipe = Recipe(name="stored_middle", rules=(Rule(), Rule(scope="^2$", **rule)))
    artifact = qat.export(qat.calibrate(qat.prepare(net, x, recipe), [x]), tmp_path / "model.onnx", [x])
    assert artifact.parity.mean_lsb < 1e-3
    kinds = [node.op_type for node in onnx.load(artifact.path).graph.node]
    assert kinds.count("Sum") == 1  # before that operator, and no other

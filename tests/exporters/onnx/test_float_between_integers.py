"""An operator that is float between integer kernels stays so in ONNX Runtime, which would round its weight and its bias."""

import keras
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


class Patches(keras.layers.Layer):
    """Windows that overlap, which Keras makes by a convolution of constants."""

    def call(self, x):
        return keras.ops.image.extract_patches(x, 3, strides=1, padding="same")


@pytest.mark.parametrize("middle", [keras.layers.Conv2D, Patches], ids=["layer", "patches"])
def test_a_float_weight_with_channels_last_is_not_rounded(middle, tmp_path):
    """A Transpose stands on both sides of the operator, which ONNX Runtime moves away first."""
    keras.utils.set_random_seed(0)
    layer = middle(8, 3, name="middle") if middle is keras.layers.Conv2D else middle(name="middle")
    inputs = keras.Input((8, 8, 3))
    net = keras.Model(inputs, keras.layers.Conv2D(4, 1)(layer(keras.layers.Conv2D(3, 1)(inputs))))
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    recipe = Recipe(name="float_middle", rules=(Rule(), Rule(scope="^middle", mode="float")))
    model = qat.calibrate(qat.prepare(net, x[:2], recipe, target="onnxruntime"), [x])
    artifact = qat.export(model, tmp_path / "model.onnx", [x])
    assert artifact.parity.mean_lsb < 1e-3
    assert [node.op_type for node in onnx.load(artifact.path).graph.node].count("Sum") == 1


def test_a_max_pooling_behind_it_hides_nothing(tmp_path):
    """The runtime moves a QuantizeLinear to before a max pooling, as past a Transpose."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    x = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    recipe = Recipe(name="float_middle", rules=(Rule(), Rule(scope="^[1-3]$", mode="float")))
    artifact = qat.export(qat.calibrate(qat.prepare(net, x, recipe), [x]), tmp_path / "model.onnx", [x])
    assert artifact.parity.mean_lsb < 1e-3

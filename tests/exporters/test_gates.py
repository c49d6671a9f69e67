"""A softmax that weighs tensors, and is no attention: exact in every artifact, over any axis."""

import numpy as np
import pytest

import qat
from qat.planning.recipe import Recipe, Rule
from qat.system.silence import quiet


def torch_nets():
    import torch
    from torch import nn

    class SelectiveKernel(nn.Module):
        """Two branches, weighed channel by channel by a softmax over the branches (Li et al. 2019)."""

        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(3, 8, 3, padding=1) for _ in range(2))
            self.weigh, self.last = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            both = torch.stack([self.a(x).relu(), self.b(x).relu()], 1)
            weights = self.weigh(both.sum(1).mean((2, 3), keepdim=True)).view(-1, 2, 8, 1, 1)
            return self.last((both * torch.softmax(3 * weights, 1)).sum(1)).flatten(1)

    class Pooling(nn.Module):
        """Separable attention (Mehta and Rastegari 2022): a softmax over places weighs their keys."""

        def __init__(self):
            super().__init__()
            self.project = nn.Conv2d(3, 17, 1)

        def forward(self, x):
            q, k, v = self.project(x).flatten(2).split([1, 8, 8], 1)
            return (v.relu() * (k * torch.softmax(q, -1)).sum(-1, keepdim=True)).flatten(1)

    torch.manual_seed(0)
    x = torch.randn(8, 3, 12, 12)
    return {"branches": (SelectiveKernel().eval(), x), "places": (Pooling().eval(), x)}


def keras_nets():
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)
    images = keras.Input((12, 12, 3))
    maps = layers.Conv2D(8, 3, activation="relu")(images)
    over_rows = layers.Softmax(axis=1)(layers.Conv2D(8, 1)(maps))
    branches = keras.Model(images, layers.Conv2D(4, 1)(maps * over_rows))
    q, k = (layers.Reshape((144, width))(layers.Conv2D(width, 1)(images)) for width in (1, 8))
    places = keras.Model(images, layers.Dense(4)(ops.mean(k * ops.softmax(q, axis=1), 1)))
    return {"branches": (branches, x), "places": (places, x)}


@pytest.mark.parametrize("name", ["branches", "places"])
@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_softmax_that_weighs_tensors_is_exact(framework, target, suffix, name, tmp_path):
    pytest.importorskip(framework)
    model, x = {"torch": torch_nets, "keras": keras_nets}[framework]()[name]
    with quiet():
        prepared = qat.calibrate(qat.prepare(model, x, target=target), [x])
        artifact = qat.export(prepared, tmp_path / f"m{suffix}", verify=[x])
    assert prepared.plan.floats() == {}
    assert artifact.parity.exact == 1.0
    real, got = (np.asarray(y.detach() if framework == "torch" else y) for y in (model(x), prepared(x)))
    assert 10 * np.log10(np.square(real).mean() / np.square(real - got).mean()) > 28


@pytest.mark.parametrize("name", ["branches", "places"])
def test_a_softmax_that_a_rule_leaves_float_stays_float_in_the_runtime(name, tmp_path):
    """ONNX Runtime made a QLinearSoftmax of it, by the whole part of 1 / scale."""
    pytest.importorskip("torch")
    from qat.runtimes.onnxruntime import OnnxSession

    model, x = torch_nets()[name]
    recipe = Recipe(name="r", rules=(Rule(), Rule(op="softmax", mode="float")))
    with quiet():
        prepared = qat.calibrate(qat.prepare(model, x, recipe), [x])
        artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[x])
    ops = OnnxSession(str(artifact.path)).ops()
    assert ops["Softmax"] == 1
    assert ops["QLinearSoftmax"] == 0
    assert artifact.parity.exact > 0.999

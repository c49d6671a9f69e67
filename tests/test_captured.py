"""One capture, many prepared models: they share nothing, and equal those that are prepared alone."""

from __future__ import annotations

import numpy as np
import pytest

import qat
from qat.captured import captured
from qat.planning.recipe import load_recipe

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 8)), torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.act(torch.special.erfc(torch.relu(self.first(x)))))


def of_torch():
    return Net().eval()


def of_keras():
    parts = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.PReLU(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *parts])


def modules(model):
    return set(map(id, model.modules() if isinstance(model, torch.nn.Module) else model._flatten_layers()))


@pytest.mark.parametrize("make", [of_torch, of_keras], ids=["torch", "keras"])
def test_prepared_models_of_one_capture_are_apart(make):
    net, x = make(), np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    capture = captured(net, x)
    fine, coarse, again = (load_recipe(name) for name in ("static_wi8_ai8", "static_wi8_ai8_per_tensor", "static_wi8_ai8"))
    models = [qat.calibrate(capture.prepare(recipe), [x], progress=False) for recipe in (fine, coarse, again)]
    assert not modules(models[0]) & (modules(models[2]) | modules(models[1]))
    qat.finetune(models[0], [(x, np.arange(16) % 3)], learning_rate=0.1, progress=False)
    adapter = capture.adapter
    for model, recipe in zip(models[1:], (coarse, again), strict=True):
        alone = qat.calibrate(qat.prepare(net, x, recipe), [x], progress=False)
        np.testing.assert_array_equal(adapter.predict(model, x)[0], adapter.predict(alone, x)[0])

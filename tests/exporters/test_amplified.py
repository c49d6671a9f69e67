"""Functions of limited values behind which a large number stands keep a scale of their own: no runtime prescribes its steps."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.runtimes import open_session

X = np.random.default_rng(0).normal(size=(256, 16)).astype(np.float32)


class Capped(nn.Module):
    """The soft cap of Gemma 2's logits and scores."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.function = nn.Linear(16, 20), function

    def forward(self, x):
        return self.function(self.head(x))


def of_keras(function):
    keras.utils.set_random_seed(0)
    entry = keras.Input((16,))
    return keras.Model(entry, function(keras.layers.Dense(20)(entry)))


FORMS = {
    "soft cap": (lambda y: 30 * torch.tanh(y / 30), lambda y: 30 * keras.ops.tanh(y / 30)),
    "scaled gate": (lambda y: (torch.sigmoid(y / 20) - 0.5) * 40, lambda y: (keras.ops.sigmoid(y / 20) - 0.5) * 40),
    "shifted": (lambda y: torch.sigmoid(y - 8) / 0.001, lambda y: keras.ops.sigmoid(y - 8) / 0.001),
}


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("name", FORMS)
def test_the_signal_is_that_of_8_bits(name, framework, target, tmp_path):
    of_torch, of_ops = FORMS[name]
    model = Capped(of_torch).eval() if framework == "torch" else of_keras(of_ops)
    prepared = qat.calibrate(qat.prepare(model, X, target=target), [X])
    assert not prepared.plan.floats()
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[X])
    assert artifact.parity.exact == 1
    wanted = np.asarray(model(torch.from_numpy(X)).detach() if framework == "torch" else model(X))
    (found,) = open_session(artifact.path).run(X)
    assert 10 * np.log10(wanted.var() / np.mean((wanted - found) ** 2)) > 28

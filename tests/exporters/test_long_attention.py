"""Attention over many tokens keeps its accuracy in every artifact: the weights of a softmax may all be small."""

import importlib.util

import numpy as np
import pytest

import qat
from qat.runtimes import open_session
from qat.system.silence import quiet

WIDTH = 32


def of_torch(tokens):
    import torch

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x):
            return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / WIDTH**0.5, -1) @ self.v(x)

    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(2, tokens, WIDTH)
    return model, x, model(x).detach().numpy()


def of_keras(tokens):
    import keras

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(2, tokens, WIDTH)).astype(np.float32)
    inputs = keras.Input((tokens, WIDTH))
    spread = keras.initializers.RandomUniform(-(WIDTH**-0.5), WIDTH**-0.5)  # PyTorch's: peaked weights are another matter
    q, k, v = (keras.layers.Dense(WIDTH, kernel_initializer=spread.clone())(inputs) for _ in range(3))
    scores = keras.ops.softmax(keras.ops.matmul(q, keras.ops.transpose(k, (0, 2, 1))) / WIDTH**0.5)
    model = keras.Model(inputs, keras.ops.matmul(scores, v))
    return model, x, np.asarray(model(x))


@pytest.mark.parametrize("tokens", [256, 1024])
@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
@pytest.mark.parametrize("make", [of_torch, of_keras])
def test_attention_over_many_tokens(make, target, suffix, tokens, tmp_path):
    if importlib.util.find_spec(make.__name__.removeprefix("of_")) is None:
        pytest.skip("not installed")
    model, x, exact = make(tokens)
    with quiet():
        prepared = qat.calibrate(qat.prepare(model, x, target=target), [x])
        artifact = qat.export(prepared, tmp_path / f"m{suffix}", verify=[x])
    (found,) = open_session(artifact.path).run(np.asarray(x))
    assert artifact.parity.exact == 1.0
    assert prepared.plan.floats() == {}
    assert 10 * np.log10(np.square(exact).mean() / np.square(exact - found).mean()) > 30

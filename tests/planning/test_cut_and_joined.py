"""Values that are cut and joined again and again: there are more paths through them than a plan can walk."""

import keras
import numpy as np
import pytest
import torch

import qat

STAGES = 24  # 2^24 paths
X = np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32)


class Mixer(torch.nn.Module):
    """A softmax that one product reads, and a layer whose values leave the model: both through many stages."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)

    def forward(self, x):
        x = torch.softmax(self.first(x), -1)
        for _ in range(STAGES):
            x = torch.cat([x[:, 1:], x[:, :1]], 1)
        x = self.last(x)
        for _ in range(STAGES):
            x = torch.cat([x[:, 1:], x[:, :1]], 1)
        return x


def keras_mixer() -> keras.Model:
    """Return the same in Keras."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 6))
    x = keras.ops.softmax(keras.layers.Dense(6)(inputs))
    for _ in range(STAGES):
        x = keras.ops.concatenate([x[:, 1:], x[:, :1]], 1)
    x = keras.layers.Dense(6)(x)
    for _ in range(STAGES):
        x = keras.ops.concatenate([x[:, 1:], x[:, :1]], 1)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_each_operator_is_visited_once(framework, target):
    model = Mixer().eval() if framework == "torch" else keras_mixer()
    prepared = qat.calibrate(qat.prepare(model, X[:2], target=target), [X])
    assert sum(p.integer for p in prepared.plan.ops if p.op.kind == "dense") == 2
    assert not any("256 integers are few" in reason for reason in prepared.plan.floats().values())
    qat.correct_biases(prepared, [X])  # asks which layers' values leave the model

"""What a division divides by stays float: on the integer grid small divisors are zero."""

import keras
import numpy as np
import pytest
import torch

import qat

X = np.random.default_rng(0).normal(size=(8, 16, 6)).astype(np.float32)
REASON = "a division reads it as its divisor: the integer grid rounds small ones to zero"


class LinearAttention(torch.nn.Module):
    """EfficientViT's: sums of products, the last of which divides the others."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        q, k, v = torch.relu(self.q(x)), torch.relu(self.k(x)), torch.nn.functional.pad(self.v(x), (0, 1), value=1.0)
        out = q @ (k.transpose(1, 2) @ v)
        return out[..., :-1] / (out[..., -1:] + 1e-15)


class KerasAttention(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (keras.layers.Dense(6) for _ in range(3))

    def call(self, x):
        q, k, v = keras.ops.relu(self.q(x)), keras.ops.relu(self.k(x)), self.v(x)
        out = keras.ops.matmul(q, keras.ops.matmul(keras.ops.transpose(k, (0, 2, 1)), v))
        ones = keras.ops.matmul(q, keras.ops.matmul(keras.ops.transpose(k, (0, 2, 1)), keras.ops.abs(v)[..., :1]))
        return out / (ones + 1e-15)


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_divisor_that_is_nearly_zero_is_not_rounded_to_zero(target):
    torch.manual_seed(0)
    model = LinearAttention().eval()
    with torch.no_grad():
        model.k.weight.mul_(torch.linspace(1e-3, 1, 6)[:, None])
    prepared = qat.calibrate(qat.prepare(model, X, target=target), [X * scale for scale in (1.0, 0.01)])
    assert REASON in prepared.plan.floats().values()
    prepared.train()
    outputs = prepared(torch.from_numpy(0.01 * X))
    outputs.square().mean().backward()
    assert torch.isfinite(outputs).all()
    assert all(torch.isfinite(p.grad).all() for p in prepared.parameters() if p.grad is not None)


def test_a_divisor_of_keras_stays_float():
    inputs = keras.Input((16, 6))
    plan = qat.plan(keras.Model(inputs, KerasAttention()(inputs)))
    assert [said for said in plan.floats().values() if said == REASON]
    assert sum(p.integer for p in plan.ops) >= 3

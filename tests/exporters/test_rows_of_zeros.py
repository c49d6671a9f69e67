"""A norm without an epsilon: rows that are zero on the integer grid have a gradient, and every output is the runtime's."""

import keras
import numpy as np
import pytest
import torch

import qat

X = np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32)
X[:, 1] *= 1e-6  # zero on the grid, not in float
Y = np.zeros_like(X)


class UnitRows(torch.nn.Module):
    """Rows of length one, as of queries and keys."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(6, 6, bias=False), torch.nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        return self.last(x * (6**0.5 / x.norm(dim=-1, keepdim=True).clamp_min(1e-7)))


def keras_unit_rows() -> keras.Model:
    """Return the same in Keras."""
    inputs = keras.Input((4, 6))
    x = keras.layers.Dense(6, use_bias=False)(inputs)
    norm = keras.ops.sqrt(keras.ops.sum(keras.ops.square(x), -1, keepdims=True))
    return keras.Model(inputs, keras.layers.Dense(6)(x * (6**0.5 / keras.ops.maximum(norm, 1e-7))))


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_row_of_zeros_trains(framework, format, tmp_path):
    keras.utils.set_random_seed(0)  # PyTorch's too
    model = UnitRows().eval() if framework == "torch" else keras_unit_rows()
    target = {"onnx": "onnxruntime", "tflite": "litert"}[format]
    prepared = qat.calibrate(qat.prepare(model, X[:2], target=target), [X])
    assert [p.integer for p in prepared.plan.ops if p.op.kind == "rms_norm"] == [True]
    loss = torch.nn.functional.mse_loss if framework == "torch" else "mse"
    losses = [epoch.loss for epoch in qat.finetune(prepared, [(X, Y)], epochs=2, loss=loss, progress=False).epochs]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]
    assert qat.export(prepared, tmp_path / f"model.{format}", verify=[X]).parity.exact == 1.0

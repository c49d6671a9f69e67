"""BatchNorm: folded into the layer before it, or a depthwise convolution of its own; in both frameworks."""

import numpy as np
import pytest
import torch
from torch import nn

import qat


def norm(channels, **options):
    made = nn.BatchNorm2d(channels, **options)
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2)
    if made.affine:
        nn.init.uniform_(made.weight, 0.5, 2)
        nn.init.normal_(made.bias)
    return made


class Dense(nn.Module):
    """A DenseNet's layer: BatchNorm and ReLU of a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.grow, self.norm, self.end = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), norm(7), nn.Conv2d(7, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.end(torch.relu(self.norm(torch.cat([x, self.grow(x)], 1))))


MODELS = {
    "after a concatenation": Dense,
    "of the input": lambda: nn.Sequential(norm(3), nn.Conv2d(3, 4, 3)),
    "without parameters": lambda: nn.Sequential(nn.MaxPool2d(2), norm(3, affine=False), nn.ReLU(), nn.Conv2d(3, 4, 1)),
    "several in a row": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), norm(4), nn.ReLU(), norm(4), norm(4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_runs_on_the_grid(name, tmp_path):
    torch.manual_seed(0)
    model, x = MODELS[name]().eval(), torch.randn(8, 3, 7, 7)
    prepared = qat.prepare(model, x[:2])
    with torch.no_grad():
        np.testing.assert_allclose(prepared.eval()(x), model(x), atol=1e-4)
    assert not prepared.plan.floats()
    kinds = [p.op.kind for p in prepared.plan.ops]
    assert "batch_norm" not in kinds
    assert kinds.count("depthwise_conv2d") == 1
    artifact = qat.export(qat.calibrate(prepared, [x]), tmp_path / "m.onnx", verify=[x])
    assert artifact.parity.exact == 1.0


def test_batch_norm_of_a_sum_in_keras(tmp_path):
    import keras

    inputs = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    y = keras.layers.Add()([y, keras.layers.Conv2D(4, 1)(inputs)])
    y = keras.layers.BatchNormalization()(keras.layers.BatchNormalization()(y))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(keras.layers.ReLU()(y)))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, 4), *rng.normal(size=(2, 4)), rng.uniform(0.5, 2, 4)])
    x = rng.normal(size=(8, 6, 6, 3)).astype(np.float32)
    prepared = qat.prepare(model)
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-4)
    assert not prepared.plan.floats()
    assert qat.export(qat.calibrate(prepared, [x]), tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0

"""Multiply-accumulates counted in small artifacts against the numbers worked out by hand."""

import pytest
from macs import Cost, costs, integer_share

import qat


def test_integer_share_of_an_onnx_artifact(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5),
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    artifact = qat.export(qat.calibrate(qat.prepare(model, x), [x]), tmp_path / "m.onnx")
    found = costs(artifact.path)
    assert sorted(c.macs for c in found) == sorted([64 * 8 * 27, 36 * 8 * 9, 8 * 36 * 5])
    assert integer_share(found) == 1.0


def test_integer_share_of_a_tflite_artifact(tmp_path):
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    y = keras.layers.Flatten()(keras.layers.DepthwiseConv2D(3)(y))
    model = keras.Model(inputs, keras.layers.Dense(5)(y))
    x = keras.random.normal((2, 8, 8, 3), seed=1)
    artifact = qat.export(qat.calibrate(qat.prepare(model), [x]), tmp_path / "m.tflite")
    found = costs(artifact.path)
    assert sorted(c.macs for c in found) == sorted([64 * 8 * 27, 36 * 8 * 9, 8 * 36 * 5])
    assert integer_share(found) == 1.0


def test_share_of_mixed_costs():
    assert integer_share([Cost("Conv", 3, False), Cost("QLinearConv", 1, True)]) == 0.25
    assert integer_share([]) is None

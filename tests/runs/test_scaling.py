"""A model that scales its pixels itself, given scaled pixels, is named with the option to set."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from qat.captured import captured
from qat.runs.config import DataConfig
from qat.runs.scaling import scaling_of, warn_of_double_scaling

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.float32)
MEAN, STD = np.array([123.7, 116.3, 103.5], np.float32), np.array([58.4, 57.1, 57.4], np.float32)


class Net(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale, self.conv = scale, torch.nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.tensor(MEAN / 255).view(1, 3, 1, 1))
        self.norm = torch.nn.BatchNorm2d(3)
        self.norm.running_mean, self.norm.running_var = torch.tensor(MEAN), torch.tensor(STD**2)

    def forward(self, x):
        return self.conv(self.scale(self, x)).mean((2, 3))


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "qat"]


def by_torch(scale):
    pixels = PIXELS.transpose(0, 3, 1, 2)
    return captured(Net(scale).eval(), pixels).traced, pixels


def by_keras(*layers):
    x = image = keras.Input((8, 8, 3))
    for layer in layers:
        x = layer(x)
    net = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x)))
    return captured(net).traced, PIXELS


def normalization():
    return keras.layers.Normalization(mean=MEAN, variance=STD**2)


SCALING = {
    "torch, by 255": lambda: by_torch(lambda net, x: x / 255),
    "torch, by a product": lambda: by_torch(lambda net, x: x * (1 / 255) - 0.5),
    "torch, by mean": lambda: by_torch(lambda net, x: x / 255 - net.mean),
    "torch, a BatchNorm of pixels": lambda: by_torch(lambda net, x: net.norm(x)),
    "keras, Rescaling": lambda: by_keras(keras.layers.Rescaling(1 / 255)),
    "keras, Rescaling to -1": lambda: by_keras(keras.layers.Rescaling(1 / 127.5, offset=-1)),
    "keras, Normalization": lambda: by_keras(normalization()),
    "keras, operators": lambda: by_keras(lambda x: x / 255.0 - 0.5),
    "keras, after augmentation": lambda: by_keras(keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)),
}  # fmt: skip


@pytest.mark.parametrize("case", SCALING)
def test_pixels_that_are_scaled_twice_are_named(case, caplog):
    model, pixels = SCALING[case]()
    with caplog.at_level(logging.WARNING, "qat"):
        warn_of_double_scaling(model, pixels, DataConfig(scale=1))
    assert not said(caplog)
    with caplog.at_level(logging.WARNING, "qat"):
        warn_of_double_scaling(model, pixels / 255, DataConfig())
    (message,) = said(caplog)
    assert "scaled twice" in message
    assert "data.scale: 1 hands the model pixels from 0 to 255" in message


@pytest.mark.parametrize("make", [lambda: by_torch(lambda net, x: x), by_keras], ids=["torch", "keras"])
def test_a_model_that_does_not_scale_is_not_named(make, caplog):
    model, pixels = make()
    assert scaling_of(model) is None
    with caplog.at_level(logging.WARNING, "qat"):
        warn_of_double_scaling(model, pixels / 255, DataConfig(mean=0.5, std=0.5))
    assert not said(caplog)


@pytest.mark.parametrize(
    "make",
    [
        lambda: by_torch(lambda net, x: x - net.mean),
        lambda: by_keras(keras.layers.Normalization(mean=MEAN / 255, variance=STD**2 / 255**2)),
    ],
    ids=["torch", "keras"],
)
def test_a_normalization_of_both_is_named(make, caplog):
    model, pixels = make()
    with caplog.at_level(logging.WARNING, "qat"):
        warn_of_double_scaling(model, pixels / 255, DataConfig())
        assert not said(caplog)
        warn_of_double_scaling(model, (pixels / 255 - 0.5) / 0.2, DataConfig(mean=0.5, std=0.2))
    (message,) = said(caplog)
    assert "data.mean and data.std do so too" in message


def test_the_scaling_is_that_of_the_layers():
    model, _ = by_keras(keras.layers.Rescaling(1 / 127.5, offset=-1), keras.layers.Rescaling(2.0, offset=0.5))
    found = scaling_of(model)
    np.testing.assert_allclose(found.factor, 2 / 127.5, rtol=1e-6)
    np.testing.assert_allclose(found.offset, -1.5, rtol=1e-6)
    assert found.layer.startswith("rescaling")

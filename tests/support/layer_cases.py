"""A net of every kind of linear layer, in both frameworks: what methods that go layer by layer are tested on."""

import numpy as np
import torch
from torch import nn

import qat

RECIPE = "static_wi4_ai8"


def torch_case():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.ReLU6(),
        nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 5, 3, 2, 1, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 64, 7),
    ).eval()  # fmt: skip
    x = torch.rand(64, 3, 8, 8)
    return model, x, qat.prepare(model, x[:2], RECIPE), "m.onnx"


def keras_case():
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            layers.ReLU(6.0),
            layers.Conv2D(6, 3, padding="same", groups=2, activation="relu"),
            layers.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(7),
        ]
    )
    x = np.random.default_rng(0).uniform(size=(64, 8, 8, 3)).astype(np.float32)
    return model, x, qat.prepare(model, recipe=RECIPE), "m.tflite"


CASES = {"torch": torch_case, "keras": keras_case}


def train(prepared, x, path):
    """What is trained from there is what is shipped."""
    labels = np.arange(len(x)) % 7
    qat.finetune(prepared, [(x, torch.from_numpy(labels) if isinstance(x, torch.Tensor) else labels)], progress=False)
    assert qat.export(prepared, path, verify=[x], overwrite=True).parity.exact == 1.0


def outputs(model, x):
    if isinstance(x, torch.Tensor):
        with torch.no_grad():
            return model.eval()(x).numpy()
    return np.asarray(model(x))

"""Bias correction: every channel's mean is that of the float model, in both frameworks, whatever was done before."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.calibration.bias_correction import mean_error
from qat.calibration.layerwise import Layerwise
from qat.errors import CalibrationError, DataError

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


@pytest.mark.parametrize("framework", CASES)
def test_means_are_those_of_the_float_model(framework, tmp_path):
    model, x, prepared, name = CASES[framework]()
    batches = [x[:24], x[24:]]
    qat.calibrate(prepared, batches)

    def off():
        """Return the largest mean error of each layer, over the layer's largest bias."""
        with Layerwise(prepared, batches, "test") as walk:
            assert len(walk.layers) == 5
            return [float(np.abs(mean_error(layer)).max()) for layer in walk.layers]

    before = off()
    final = outputs(model, x).mean(0)
    start = np.abs(outputs(prepared, x).mean(0) - final).max()
    assert qat.correct_biases(prepared, batches) is prepared
    after = off()
    assert max(after) < 1e-5 < max(before) / 50
    assert np.abs(outputs(prepared, x).mean(0) - final).max() < start / 3
    again = [np.array(v) for v in parameters(prepared)]
    qat.correct_biases(prepared, batches)  # once more changes nothing
    for a, b in zip(again, parameters(prepared), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert qat.export(prepared, tmp_path / name, verify=[x]).parity.exact == 1.0
    train(prepared, x, tmp_path / name)


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


def parameters(prepared):
    if isinstance(prepared, nn.Module):
        return [p.detach().numpy() for p in prepared.parameters()]
    return [np.asarray(v) for v in prepared.trainable_variables]


def test_training_makes_a_new_reference():
    _, x, prepared, _ = torch_case()
    qat.correct_biases(qat.calibrate(prepared, [x]), [x])
    with torch.no_grad():
        prepared.get_parameter("0.bias").add_(1.0)
    bias = prepared.get_parameter("0.bias").clone()
    qat.correct_biases(qat.calibrate(prepared, [x]), [x])
    torch.testing.assert_close(prepared.get_parameter("0.bias").detach(), bias.detach(), atol=0.1, rtol=0)


def test_mistakes_are_named():
    model, x, prepared, _ = torch_case()
    with pytest.raises(CalibrationError, match="correct_biases needs a prepared model"):
        qat.correct_biases(model, [x])
    with pytest.raises(CalibrationError, match=r"call qat\.calibrate"):
        qat.correct_biases(prepared, [x])
    qat.calibrate(prepared, [x])
    with pytest.raises(DataError, match="correct_biases got no samples"):
        qat.correct_biases(prepared, [])
    with pytest.raises(DataError, match="batch 1 of correct_biases holds nan"):
        qat.correct_biases(prepared, [x, x * float("nan")])


def test_a_model_without_biases_says_so(caplog):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False)).eval(), torch.rand(4, 3, 4, 4)
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    qat.correct_biases(prepared, [x])
    assert "no integer layer of the model has a bias" in caplog.text

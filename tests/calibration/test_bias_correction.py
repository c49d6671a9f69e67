"""Bias correction: every channel's mean is that of the float model, in both frameworks, whatever was done before."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.calibration.bias_correction import OutputCorrection, QuickCorrection, mean_error
from qat.calibration.layerwise import Layerwise
from qat.errors import CalibrationError, DataError
from qat.planning.recipe import QuantSpec, Recipe, Rule
from qat.report.statistics import error_percent
from support.layer_cases import CASES, outputs, torch_case, train


@pytest.mark.slow
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


@pytest.mark.parametrize("framework", CASES)
def test_one_pass_brings_outputs_nearer_and_is_taken_back(framework):
    model, x, prepared, _ = CASES[framework]()
    qat.calibrate(prepared, [x])
    before = [np.array(v) for v in parameters(prepared)]

    def off():
        return np.abs(outputs(prepared, x).mean(0) - outputs(model, x).mean(0)).max()

    start, correction = off(), QuickCorrection(prepared, [x[:24], x[24:]])
    correction.apply()
    assert off() < 0.7 * start
    correction.take_back()
    for a, b in zip(before, parameters(prepared), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("recipe", ["weightonly_wi4_afp32", "dynamic_wi8_afp32"])
@pytest.mark.parametrize("framework", CASES)
def test_layers_that_write_float_are_corrected_and_their_roundings_learned(framework, recipe):
    model, x, _, _ = CASES[framework]()
    prepared = qat.calibrate(qat.prepare(model, x[:2], recipe), [x])
    real = outputs(model, x)
    start, error = np.abs(outputs(prepared, x).mean(0) - real.mean(0)).max(), error_percent([outputs(prepared, x)], [real])
    qat.correct_biases(prepared, [x])
    assert np.abs(outputs(prepared, x).mean(0) - real.mean(0)).max() < start / 3
    qat.adaround(prepared, [x], steps=20)
    assert error_percent([outputs(prepared, x)], [real]) < error


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_the_means_of_what_leaves_the_model_are_corrected(granularity, tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6)]
    net, x = nn.Sequential(*layers).eval(), torch.rand(64, 3, 8, 8)
    rules = (Rule(), Rule(scope="5", mode="dynamic", weight=QuantSpec(bits=8, symmetric=True, granularity=granularity)))
    prepared = qat.calibrate(qat.prepare(net, x[:2], Recipe(name="r", rules=rules), "litert"), [x])
    start = np.abs(outputs(prepared, x).mean(0) - outputs(net, x).mean(0)).max()
    bias, correction = prepared.get_parameter("5.bias").clone(), OutputCorrection(prepared, [x])
    correction.apply()
    assert np.abs(outputs(prepared, x).mean(0) - outputs(net, x).mean(0)).max() < start / 5
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0
    correction.take_back()
    assert torch.equal(bias, prepared.get_parameter("5.bias"))


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        a, b = self.first(x).relu().chunk(2, 1)
        return self.last(self.second(b) + a)


def test_a_layer_behind_a_split_is_corrected():
    torch.manual_seed(0)
    net, x = Halves().eval(), torch.rand(128, 8)
    prepared = qat.calibrate(qat.prepare(net, x[:2], "static_wi4_ai8"), [x])
    start = np.abs(outputs(prepared, x).mean(0) - outputs(net, x).mean(0)).max()
    bias = prepared.get_parameter("second.bias").clone()
    QuickCorrection(prepared, [x]).apply()
    assert not torch.equal(bias, prepared.get_parameter("second.bias"))
    assert np.abs(outputs(prepared, x).mean(0) - outputs(net, x).mean(0)).max() < 0.7 * start


def dense_file(path):
    """A file of dense layers; return its net and samples."""
    torch.manual_seed(0)
    sizes = (16, 64, 64, 64, 64, 4)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    net, x = nn.Sequential(*layers[:-1]).eval(), torch.randn(256, 16) + 0.5
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)
    axes = {"input": {0: "n"}}
    torch.onnx.export(net, (x[:1],), str(path), dynamo=False, dynamic_axes=axes, input_names=["input"])
    return net, x


@pytest.mark.slow
def test_training_starts_from_learned_roundings(tmp_path):
    _, x = dense_file(tmp_path / "net.onnx")
    options = {"recipe": "static_wi4_ai8", "estimator": "minmax", "overwrite": True, "progress": False}
    calibrated, trained = (qat.quantize(tmp_path / "net.onnx", x.numpy(), train=steps, **options) for steps in (None, 1))
    assert trained.error_percent < 1.001 * calibrated.error_percent


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_file_is_corrected(target, tmp_path):
    net, x = dense_file(tmp_path / "net.onnx")
    made = qat.quantize(tmp_path / "net.onnx", x.numpy(), recipe="static_wi4_ai8", target=target, estimator="minmax")
    plain = qat.calibrate(qat.prepare(net, x[:2], "static_wi4_ai8", target), [x[:128]], "minmax")
    real = outputs(net, x)
    error = error_percent([outputs(plain, x)], [real])
    assert made.error_percent < 0.8 * error
    QuickCorrection(plain, [x[:32]]).apply()
    assert made.error_percent < error_percent([outputs(plain, x)], [real])  # roundings are learned, too
    assert made.exact == 1.0


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


def test_a_method_that_is_repeated_compares_with_the_same_float_model_until_something_else_changes_the_weights():
    torch.manual_seed(0)
    x = torch.rand(64, 4)
    model = qat.calibrate(qat.prepare(nn.Linear(4, 3), x), [x])
    given = model.bias.detach().clone()
    once = qat.correct_biases(model, [x]).bias.detach().clone()
    assert (once - given).abs().max() > 1e-4
    torch.testing.assert_close(qat.correct_biases(model, [x]).bias.detach(), once, rtol=0, atol=1e-6)
    with torch.no_grad():
        model.bias += 1.0
    shifted = qat.correct_biases(model, [x]).bias.detach()
    torch.testing.assert_close(shifted, once + 1 + (once - given), rtol=0, atol=1e-5)

"""Float operators between integer kernels: paddings of integers, choices along an axis, and the sign of a zero."""

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import qat

SUFFIXES = {"litert": ".tflite", "onnxruntime": ".onnx"}
X = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float32)


class After(torch.nn.Module):
    """A convolution, and a function of its output."""

    def __init__(self, function):
        super().__init__()
        self.stem, self.function = torch.nn.Conv2d(4, 8, 3, padding=1), function

    def forward(self, x):
        return self.function(self.stem(x))


def parity(model, x, target, tmp_path):
    prepared = qat.calibrate(qat.prepare(model, x[:2], target=target), [x])
    return qat.export(prepared, tmp_path / f"m{SUFFIXES[target]}", verify=[x, x[:1]]).parity


EXACT = {
    "fold of windows side by side": lambda y: F.fold(F.unfold(y, 2, stride=2), (8, 8), 2, stride=2),
    "fold of windows that overlap": lambda y: F.fold(F.unfold(y, 2, padding=1), (8, 8), 2, padding=1),
    "padded pooling of volumes": lambda y: F.max_pool3d(y.unsqueeze(1), 3, stride=1, padding=1),
    "padded pooling of volumes, stride 2": lambda y: F.max_pool3d(y.reshape(-1, 2, 4, 8, 8), 3, stride=2, padding=1),
    "choice by another choice": lambda y: torch.take_along_dim(y, y.argsort(-1), -1),
    "choice of one": lambda y: torch.take_along_dim(y, y.argmax(1, keepdim=True), 1),
    "the same choice everywhere": lambda y: torch.take_along_dim(y, torch.tensor([[[[0, 2]]]]), 3),
}


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("name", EXACT)
def test_integers_are_padded_and_chosen_exactly(name, target, tmp_path):
    torch.manual_seed(0)
    assert parity(After(EXACT[name]).eval(), X, target, tmp_path).exact == 1.0


def test_order_statistics_in_onnx(tmp_path):
    """What a .tflite held, and torch.onnx did not write: `export` said so, after training."""

    def ends(y):
        least, places = y.cummin(1)
        parts = (y.cummax(2)[0], least, places.float(), torch.fmax(y, y.flip(1)), torch.fmin(y, y.flip(1)), F.rrelu(y))
        return *parts, y.kthvalue(3, -1)[0], y.median(1, keepdim=True)[0]

    torch.manual_seed(0)
    assert parity(After(ends).eval(), X, "onnxruntime", tmp_path).exact == 1.0


#: A zero with a sign gives another angle, and another infinity, than one without.
SIGNED = {
    "atan2": lambda y: torch.atan2(y, y.roll(1, 1)),
    "atan2 in the origin": lambda y: torch.atan2(F.relu(y), F.relu(-y)),
    "copysign": lambda y: torch.copysign(torch.ones_like(y), y),
}


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("name", SIGNED)
def test_a_zero_has_no_sign(name, target, tmp_path):
    torch.manual_seed(0)
    assert parity(After(SIGNED[name]).eval(), X, target, tmp_path).max_lsb < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances_of_rows_in_onnx(p, tmp_path):
    torch.manual_seed(0)
    model = After(lambda y: torch.cdist(y.flatten(2), y.flatten(2)[:, :3], p)).eval()
    assert parity(model, X, "onnxruntime", tmp_path).max_lsb < 1e-3


@pytest.mark.parametrize("target", SUFFIXES)
def test_a_zero_of_keras_has_no_sign(target, tmp_path):
    inputs = keras.Input((8, 8, 4))
    y, x = (keras.layers.Conv2D(8, 3, padding="same")(inputs) for _ in range(2))
    model = keras.Model(inputs, keras.ops.arctan2(y, x))
    assert parity(model, X.transpose(0, 2, 3, 1), target, tmp_path).max_lsb < 1e-3


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"groups": 2}, "in groups has no integer kernel"), ({"dilation": 2}, "dilation has no integer kernel")],
)
def test_the_plan_says_what_a_transposed_convolution_lacks(options, reason):
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 8, 3, **options), torch.nn.Conv2d(8, 4, 1)).eval()
    assert [said for said in qat.plan(model, X).floats().values() if reason in said]

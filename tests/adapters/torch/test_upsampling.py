"""Bilinear up-sampling of PyTorch by whole factors: fixed integers, exact in ONNX Runtime and LiteRT."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters import torch as adapter
from qat.arithmetic.encoding import from_range
from qat.arithmetic.upsampling import UPSAMPLING
from qat.program import interpreter as reference
from qat.runtimes.litert import LiteRTSession
from support.operators import check_operator


class Up(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end, self.options = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1), options

    def forward(self, x):
        return self.end(F.interpolate(self.stem(x), mode="bilinear", **self.options))


CASES = {
    "twice": {"scale_factor": 2},
    "three times": {"scale_factor": 3},
    "four times": {"scale_factor": 4},
    "of each axis": {"scale_factor": (2.0, 3.0)},
    "of one axis": {"scale_factor": (1.0, 4.0)},
    "to a size": {"size": (10, 24)},
}


@pytest.mark.parametrize("kernels", UPSAMPLING)
@pytest.mark.parametrize("factors", [(2, 2), (3, 3), (4, 4), (2, 5), (1, 3)])
def test_integers_are_those_of_bilinear_interpolation(factors, kernels):
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 4, 5))
    e = from_range(-1.0, 1.0, -128, 127)
    real = F.interpolate(torch.from_numpy(x).double(), scale_factor=[float(f) for f in factors], mode="bilinear").numpy()
    got = UPSAMPLING[kernels](x - e.zero_point, factors, e)
    # LiteRT's shares are rounded to 2048ths: along two axes that is at most 2 * 255 / 4096 more.
    assert np.abs(got + e.zero_point - real).max() <= 0.5 + (1e-4 if kernels == "mlas" or max(factors) in (2, 4) else 0.125)


@pytest.mark.parametrize("name", CASES)
def test_in_integers_and_exact(name, tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    prepared, ops = check_operator(Up(**CASES[name]).eval(), x, "stem.weight", tmp_path)
    assert (ops["QLinearConv"], ops["DequantizeLinear"]) == (3, 1)
    values = reference.run(adapter.lower(prepared), x.numpy())
    for value_name, value in adapter.grid_values(prepared, x.numpy()).items():
        np.testing.assert_array_equal(value, values[value_name], err_msg=value_name)


def test_any_size(tmp_path):
    inputs = [torch.randn(2, 2, 5, 6), torch.randn(3, 2, 9, 4)]
    prepared = qat.calibrate(qat.prepare(Up(scale_factor=2).eval(), inputs[0], dynamic=("height", "width")), inputs)
    assert not prepared.plan.floats()
    assert qat.export(prepared.eval(), tmp_path / "m.onnx", verify=inputs).parity.exact == 1.0


@pytest.mark.parametrize("options", [{"scale_factor": 2, "align_corners": True}, {"scale_factor": 1.5}, {"scale_factor": 8}])
def test_other_factors_stay_float(options):
    plan = qat.plan(Up(**options).eval(), torch.randn(2, 2, 6, 6))
    assert list(plan.floats()) == ["upsample_bilinear2d"]


@pytest.mark.parametrize("name", CASES)
def test_in_integers_and_exact_in_litert(name, tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    prepared = qat.calibrate(qat.prepare(Up(**CASES[name]).eval(), x[:2], target="litert"), [x])
    assert not prepared.plan.floats()
    made = qat.export(prepared, tmp_path / "m.tflite", verify=[x])
    assert made.parity.exact == 1.0
    ops = LiteRTSession(made.path).ops()
    assert (ops["RESIZE_BILINEAR"], ops["TRANSPOSE"]) == (1, 0)
    values = reference.run(adapter.lower(prepared), x.numpy())
    for value_name, value in adapter.grid_values(prepared, x.numpy()).items():
        np.testing.assert_array_equal(value, values[value_name], err_msg=value_name)


def test_training_has_the_gradient_of_the_float_operator():
    x = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    prepared = qat.calibrate(qat.prepare(Up(scale_factor=2).eval(), x, target="litert"), [x])
    prepared.train()
    prepared(x).square().mean().backward()
    net = Up(scale_factor=2)
    net(x).square().mean().backward()
    expected = net.stem.weight.grad
    assert torch.nn.functional.cosine_similarity(prepared.stem.weight.grad.ravel(), expected.ravel(), dim=0) > 0.98


class Ends(nn.Module):
    """A resize that no integer kernel runs, at the end of a network or before a convolution."""

    def __init__(self, then=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end, self.options = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 3) if then else nn.Identity(), options

    def forward(self, x):
        return self.end(F.interpolate(self.stem(x), mode="bilinear", **self.options))


FLOAT = {
    "by a large factor": {"scale_factor": 8},
    "between corners": {"size": (17, 30), "align_corners": True},
    "to one row": {"size": (1, 9), "align_corners": True},
    "to fewer": {"size": (4, 3)},
    "by a broken factor": {"scale_factor": 1.5, "recompute_scale_factor": True},
    "before a convolution": {"size": (40, 47), "then": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("name", FLOAT)
def test_float_values_are_those_of_the_runtime(name, target, tmp_path):
    torch.manual_seed(1)
    x = torch.randn(4, 2, 9, 10)
    prepared = qat.calibrate(qat.prepare(Ends(**FLOAT[name]).eval(), x[:2], target=target), [x])
    assert len(prepared.plan.floats()) == 1
    suffix = prepared.plan.target.suffix
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1.0


def test_a_factor_that_rounds_the_size(tmp_path):
    x = torch.randn(4, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    prepared = qat.calibrate(qat.prepare(Ends(scale_factor=1.5).eval(), x[:2]), [x])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


def test_training_passes_gradients_through_a_float_resize():
    x = torch.randn(4, 2, 9, 10, generator=torch.Generator().manual_seed(0))
    prepared = qat.calibrate(qat.prepare(Ends(scale_factor=8).eval(), x[:2]), [x])
    for training in (True, False):
        prepared.train(training).zero_grad()
        prepared(x).square().sum().backward()
        assert prepared.get_parameter("stem.weight").grad.abs().sum() > 0
    copy.deepcopy(prepared)
    pickle.dumps(prepared)


class Others(nn.Module):
    """A resize of signals or of volumes."""

    def __init__(self, mode, sizes, **options):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.mode, self.sizes, self.options = nn.Conv2d(2, 4, 1), mode, sizes, options

    def forward(self, x):
        return F.interpolate(self.stem(x).reshape(-1, *self.sizes), mode=self.mode, **self.options)


OTHERS = {
    "a signal": ("linear", (4, 90), {"size": 100}),
    "a signal, by a whole factor": ("linear", (4, 90), {"scale_factor": 2}),
    "a signal between its ends": ("linear", (4, 90), {"size": 31, "align_corners": True}),
    "a volume": ("trilinear", (4, 3, 6, 5), {"size": (4, 13, 9)}),
    "the planes of a volume": ("trilinear", (4, 3, 6, 5), {"scale_factor": (1, 8, 8)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("name", OTHERS)
def test_signals_and_volumes_are_resized_as_images(name, target, tmp_path):
    mode, sizes, options = OTHERS[name]
    x = torch.randn(4, 2, 9, 10, generator=torch.Generator().manual_seed(0))
    model = Others(mode, sizes, **options).eval()
    prepared = qat.calibrate(qat.prepare(model, x[:2], target=target), [x])
    with torch.no_grad():
        assert F.mse_loss(prepared(x), model(x)).sqrt() < 0.01
    suffix = prepared.plan.target.suffix
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1.0

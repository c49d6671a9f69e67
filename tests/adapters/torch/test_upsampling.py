"""Bilinear up-sampling of PyTorch by whole factors: fixed integers, exact in ONNX Runtime and LiteRT."""

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

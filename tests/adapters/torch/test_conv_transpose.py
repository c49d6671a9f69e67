"""Transposed convolutions of PyTorch: on the grid, with BatchNorm and activation folded in, exact in ONNX Runtime."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters import torch as adapter
from qat.exporters.onnx import legalize
from qat.program import interpreter as reference
from qat.runtimes import open_session
from support.machine import EIGHT_BITS_ARE_EXACT


class Up(nn.Module):
    """A convolution, a transposed one with BatchNorm and ReLU, and another."""

    def __init__(self, transposed, norm=nn.BatchNorm2d, end=nn.Conv2d):
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.up, self.end = end(2, 4, 1), transposed, end(transposed.out_channels, 3, 1)
        self.norm = norm(transposed.out_channels)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        return self.end(F.relu(self.norm(self.up(self.stem(x)))))


def check(model, x, path, target="onnxruntime"):
    """Prepare, train a step, export: all in integers, the artifact is the model; returns the program and the operators."""
    prepared = qat.calibrate(qat.prepare(model.eval(), x[:2], target=target), [x])
    assert not prepared.plan.floats()
    assert "batch_norm" not in {p.op.kind for p in prepared.plan.ops}
    with torch.no_grad():
        expected = model(x)
    assert float((prepared.eval()(x) - expected).norm() / expected.norm()) < 0.05
    prepared.train()
    prepared(x).square().mean().backward()
    assert float(prepared.get_parameter("up.weight").grad.abs().sum()) > 0
    torch.optim.SGD(prepared.parameters(), 0.01).step()
    artifact = qat.export(prepared.eval(), path / "m.onnx", verify=[x])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    program = adapter.lower(prepared)
    values = reference.run(program, x.numpy())
    for name, value in adapter.grid_values(prepared, x.numpy()).items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)
    return program, open_session(artifact.path).ops()


GEOMETRIES = {
    "doubled": {"kernel_size": 2, "stride": 2},
    "overlapping": {"kernel_size": 4, "stride": 2, "padding": 1},
    "odd, with an output padding": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "gaps": {"kernel_size": 1, "stride": 2, "output_padding": 1},
    "narrower than the stride": {"kernel_size": 2, "stride": 3},
    "stride 1": {"kernel_size": 3, "padding": 1},
    "stride 4": {"kernel_size": 9, "stride": 4, "padding": 3, "output_padding": 2},
    "cut by more than a stride": {"kernel_size": 5, "stride": 2, "padding": 4},
    "two strides": {"kernel_size": (3, 5), "stride": (2, 3), "padding": (0, 2), "output_padding": (1, 0)},
    "without a bias": {"kernel_size": 3, "stride": 2, "bias": False},
    "a filter for each channel": {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 4},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometries(name, tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    options = GEOMETRIES[name]
    out = 4 if options.get("groups") else 5
    torch.manual_seed(2)
    program, ops = check(Up(nn.ConvTranspose2d(4, out, **options)), x, tmp_path)
    assert ops["QLinearConv"] == 3
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (1, 1)
    split = legalize(program)
    assert {"conv_transpose2d"} == {s.kind for s in program.instructions} - {s.kind for s in split.instructions}


@pytest.mark.parametrize("name", ["doubled", "odd, with an output padding", "cut by more than a stride", "two strides"])
def test_in_litert(name, tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    model = Up(nn.ConvTranspose2d(4, 5, **GEOMETRIES[name])).eval()
    prepared = qat.calibrate(qat.prepare(model, x[:2], target="litert"), [x])
    assert not prepared.plan.floats()
    artifact = qat.export(prepared.eval(), tmp_path / "m.tflite", verify=[x, x[:3]])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"padding": 1}, {"output_padding": 1}, {"padding": 1, "output_padding": 1}])
def test_groups_stay_float_in_litert(options, tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    for groups, out in ((4, 4), (2, 6)):
        model = Up(nn.ConvTranspose2d(4, out, 3, 2, groups=groups, **options)).eval()
        prepared = qat.calibrate(qat.prepare(model, x[:2], target="litert"), [x])
        assert "conv_transpose2d" in prepared.plan.floats()
        artifact = qat.export(prepared.eval(), tmp_path / "m.tflite", verify=[x, x[:3]], overwrite=True)
        assert artifact.parity.mean_lsb < 0.5


@pytest.mark.skipif(not EIGHT_BITS_ARE_EXACT, reason="this processor has no VNNI: sums of 8-bit weights saturate")
def test_weights_of_8_bits(tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    check(Up(nn.ConvTranspose2d(4, 5, 3, 2, 1, 1)), x, tmp_path, "onnxruntime_vnni")


def test_rows(tmp_path):
    x = torch.randn(4, 2, 9, generator=torch.Generator().manual_seed(0))
    model = Up(nn.ConvTranspose1d(4, 5, 4, 2, 1), nn.BatchNorm1d, nn.Conv1d)
    program, ops = check(model, x, tmp_path)
    assert ops["QLinearConv"] == 3
    assert sum(s.kind == "reshape" for s in program.instructions) == 2  # the axis between is kept


def test_groups_and_dilation_stay_float(tmp_path):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    for options in ({"groups": 2}, {"dilation": 2}):
        model = Up(nn.ConvTranspose2d(4, 6, 3, 2, **options)).eval()
        prepared = qat.calibrate(qat.prepare(model, x[:2]), [x])
        assert list(prepared.plan.floats()) == ["conv_transpose2d"]
        path = qat.export(prepared.eval(), tmp_path / "m.onnx", overwrite=True).path
        (got,) = open_session(path).run(x.numpy())
        np.testing.assert_allclose(got, prepared(x).detach().numpy(), atol=0.1)

"""Convolutions in which each sample has a kernel of its own: as many groups as samples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qat
from qat.errors import ExportError

X = torch.randn(6, 3, 8, 9, generator=torch.Generator().manual_seed(0))
CASES = [
    ({"padding": 1}, True, "litert", "m.tflite"),
    ({"stride": 2, "dilation": 2, "padding": (1, 2)}, False, "onnxruntime", "m.onnx"),
]


class Dynamic(nn.Module):
    """A mixture of four kernels, weighted by the sample."""

    def __init__(self, window, bias):
        super().__init__()
        torch.manual_seed(0)
        self.kernels, self.weights, self.end = nn.Parameter(torch.randn(4, 8 * 27)), nn.Linear(3, 4), nn.Conv2d(8, 5, 1)
        self.window, self.bias = window, nn.Linear(3, 8) if bias else None

    def forward(self, x):
        n, channels, height, width = x.shape
        mean = x.mean((2, 3))
        kernels = (self.weights(mean).softmax(-1) @ self.kernels).view(n * 8, channels, 3, 3)
        bias = self.bias(mean).view(-1) if self.bias else None
        y = F.conv2d(x.reshape(1, n * channels, height, width), kernels, bias, groups=n, **self.window)
        return self.end(y.view(n, 8, *y.shape[2:]).relu())


@pytest.mark.parametrize(("window", "bias", "target", "name"), CASES)
def test_they_train_and_are_exact(window, bias, target, name, tmp_path):
    model = Dynamic(window, bias).eval()
    prepared = qat.prepare(model, X[:2], target=target)
    assert prepared.plan.floats() == {}
    qat.calibrate(prepared, [X])
    with torch.no_grad():
        assert (prepared(X) - model(X)).abs().mean() < 0.05 * model(X).abs().mean()
    prepared(X).sum().backward()
    assert prepared.get_parameter("kernels").grad is not None
    assert qat.export(prepared.eval(), tmp_path / name, verify=[X, X[:1]]).parity.exact == 1.0


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_those_that_no_format_holds_are_refused_at_once(target):
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernels = nn.Linear(3, 3 * 5 * 4)

        def forward(self, x):
            n, channels, *size = x.shape
            kernels = self.kernels(x.mean((2, 3))).view(n * channels, 5, 2, 2)
            return F.conv_transpose2d(x.reshape(1, n * channels, *size), kernels, groups=n).view(n, 5, size[0] + 1, size[1] + 1)

    with pytest.raises(ExportError, match=r"conv_transpose2d\.input \(in as many groups as there are samples\) \(.*kernels.py:"):
        qat.prepare(Transposed().eval(), X[:2], target=target)

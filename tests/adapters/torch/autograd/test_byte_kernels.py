"""Accumulators by the CPU's 8-bit instructions: those of float32, in every bit, in whatever layout."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters.torch import set_range_tracking
from qat.adapters.torch.autograd import byte_kernels
from qat.adapters.torch.autograd.kept_bytes import keep
from qat.adapters.torch.autograd.kernel_choice import computing_with
from support.kernels import Always

#: The largest weight of which this processor's sums are exact: 8 bits by VNNI, else 7.
QMAX = 127 if byte_kernels.exact(127) else 64
pytestmark = pytest.mark.skipif(
    not byte_kernels.exact(QMAX), reason="this is no x86 processor with AVX2, or this PyTorch has no kernels for it"
)


@pytest.fixture(autouse=True)
def called():
    """Compute by bytes wherever that is possible; the kernels' forms in the order of their calls."""
    always = Always("bytes")
    with computing_with(always):
        yield always.asked


def in_bytes(called):
    return [name for name, form in called if form == "bytes"]


@pytest.mark.parametrize("lo", [0, -1, -100, -128, -255])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2), (5, 2, 1, 1)]
)
def test_convolutions_equal_those_in_float32(lo, last, kernel, stride, padding, dilation, called):
    g = torch.Generator().manual_seed(lo + kernel)
    x = torch.randint(lo, lo + 256, (3, 7, 11, 9), generator=g).float()
    w = torch.randint(-QMAX, QMAX + 1, (13, 7, kernel, kernel), generator=g).float()
    x[0], w[0], w[1] = lo + 255, QMAX, -QMAX  # the largest accumulators
    geometry = ((stride, stride), (padding, padding), (dilation, dilation), 1)
    x = x.to(memory_format=torch.channels_last) if last else x
    for bias in (None, torch.randint(-(2**22), 2**22, (13,), generator=g).float()):
        assert torch.equal(
            byte_kernels.conv2d(x, keep(x, lo), w.to(torch.int8), bias, geometry, lo, QMAX, byte_kernels.pack),
            F.conv2d(x, w, bias, *geometry),
        )
    assert len(in_bytes(called)) == 2


@pytest.mark.parametrize("shape", [(33, 20), (2, 5, 20)])
def test_fully_connected_layers_equal_those_in_float32(shape, called):
    x, w = torch.randint(-90, 166, shape).float(), torch.randint(-QMAX, QMAX + 1, (9, 20)).float()
    for bias in (None, torch.randint(-(2**22), 2**22, (9,)).float()):
        assert torch.equal(
            byte_kernels.linear(x, keep(x, -90), w.to(torch.int8), bias, -90, QMAX, byte_kernels.pack), F.linear(x, w, bias)
        )
    assert len(in_bytes(called)) == 2


class Net(nn.Module):
    """Convolutions of each kind, a view of their result in float, a layer on tokens."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.c, self.fc = nn.Conv2d(16, 64, 3, 2, 1), nn.Linear(16, 10)

    def forward(self, x):
        y = self.c(F.relu6(self.b(F.relu(self.a(x)))))
        return self.fc(torch.sin(y).view(len(x), -1, 16))


def test_a_training_step_is_the_same_with_and_without(monkeypatch, called):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    prepared = qat.calibrate(qat.prepare(Net().eval(), x), [x])
    results = []
    for on in (True, False):
        monkeypatch.setattr(byte_kernels, "exact", lambda qmax, on=on: on)
        model = copy.deepcopy(prepared).train()
        y = model(x)
        y.square().mean().backward()
        results.append((y, {name: p.grad for name, p in model.named_parameters()}))
    assert len(in_bytes(called)) == 4
    assert torch.equal(results[0][0], results[1][0])
    for name, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][name], rtol=1e-4, atol=1e-6)


def test_a_prepared_model_is_exact_with_it(tmp_path, called):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(8 * 256, 10))
    prepared = qat.calibrate(qat.prepare(net.eval(), x), [x])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x.numpy()]).parity.exact == 1.0
    assert in_bytes(called)


def test_while_ranges_are_tracked_accumulators_are_left_to_float32(called):
    x = torch.randn(4, 3, 16, 16)
    prepared = qat.calibrate(qat.prepare(Net().eval(), x), [x])
    set_range_tracking(prepared, True)
    prepared.train()(x)
    assert called and not in_bytes(called)

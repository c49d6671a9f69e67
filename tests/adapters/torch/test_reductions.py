"""Reductions over any axes, pooling of fixed windows, limits and slopes: all in integers, exact in both runtimes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat


class Then(nn.Module):
    """A convolution, what is to be tested, and a fully connected layer on what is left."""

    def __init__(self, work, extra=None):
        super().__init__()
        torch.manual_seed(4)
        self.stem, self.extra, self.work = nn.Conv2d(3, 4, 1), extra or nn.Identity(), work
        with torch.no_grad():
            rows = self.tail(torch.zeros(1, 3, 6, 6))
        self.end = nn.Linear(rows.shape[1], 3)

    def tail(self, x):
        return self.work(self, self.stem(x)).flatten(1)

    def forward(self, x):
        return self.end(self.tail(x))


def norm(channels, of=nn.BatchNorm1d):
    torch.manual_seed(5)
    made = of(channels).eval()
    with torch.no_grad():
        made.running_mean.normal_()
        made.running_var.uniform_(0.5, 2.0)
    return made


def slopes(count):
    torch.manual_seed(6)
    made = nn.PReLU(count)
    with torch.no_grad():
        made.weight.copy_(torch.rand(count) - 0.3)
    return made


CASES = {
    "mean of channels": (lambda m, x: x.mean(1), None),
    "mean of a spatial axis": (lambda m, x: x.mean(2), None),
    "mean of the last axis, kept": (lambda m, x: x.mean(-1, keepdim=True), None),
    "mean of tokens": (lambda m, x: x.flatten(2).transpose(1, 2).mean(1), None),
    "mean of channels and columns": (lambda m, x: x.mean((1, 3), keepdim=True), None),
    "mean of all": (lambda m, x: x.mean((1, 2, 3)).unsqueeze(1), None),
    "sum over the image": (lambda m, x: x.sum((2, 3)), None),
    "sum of channels": (lambda m, x: x.sum(1, keepdim=True), None),
    "adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, 3), None),
    "adaptive of other sizes": (lambda m, x: F.adaptive_avg_pool2d(x, (2, 1)), None),
    "adaptive rows": (lambda m, x: F.adaptive_avg_pool1d(x.flatten(2), 4), None),
    "average that counts its padding": (lambda m, x: F.avg_pool2d(x, 3, 2, 1), None),
    "average whose last windows end at the edge": (lambda m, x: F.avg_pool2d(x, 2, 2, ceil_mode=True), None),
    "maximum with a number": (lambda m, x: torch.maximum(x, torch.tensor(0.1)), None),
    "minimum with a number": (lambda m, x: torch.min(torch.tensor([0.2]), x), None),
    "gated": (lambda m, x: F.glu(x, 1), None),
    "one slope": (lambda m, x: m.extra(x), slopes(1)),
    "a slope for each channel": (lambda m, x: m.extra(x), slopes(4)),
    "a slope for each channel of rows": (lambda m, x: m.extra(x.flatten(2)), slopes(4)),
    "a slope for each feature": (lambda m, x: m.extra(x[:, :, 1, 2]), slopes(4)),
    "BatchNorm of features": (lambda m, x: m.extra(x.amax((2, 3))), norm(4)),
    "BatchNorm of rows": (lambda m, x: m.extra(x.flatten(2).flip(2)), norm(4)),
}


@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", "onnx"), ("litert", "tflite")])
@pytest.mark.parametrize("name", CASES)
def test_in_integers_and_exact(name, target, suffix, tmp_path):
    work, extra = CASES[name]
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = Then(work, extra).eval()
    prepared = qat.calibrate(qat.prepare(model, x[:2], target=target), [x])
    assert not prepared.plan.floats()
    with torch.no_grad():
        expected = model(x)
    assert float((prepared.eval()(x) - expected).norm() / expected.norm()) < 0.1
    prepared.train()(x).square().mean().backward()
    trained = [name for name, p in prepared.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0]
    assert "stem.weight" in trained
    assert ("extra.weight" in trained) == (extra is not None and len(extra.weight) > 1)
    artifact = qat.export(prepared.eval(), tmp_path / f"m.{suffix}", verify=[x, x[:3]])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


def test_a_trained_limit_stays_float():
    model = Then(lambda m, x: torch.maximum(x, m.extra.weight), slopes(1)).eval()
    assert "maximum" in qat.plan(model, torch.randn(2, 3, 6, 6)).floats()


def test_average_of_windows_beyond_the_edge_stays_float():
    model = Then(lambda m, x: F.avg_pool2d(x, 4, 4, ceil_mode=True)).eval()
    assert "avg_pool2d" in qat.plan(model, torch.randn(2, 3, 6, 6)).floats()


def test_windows_of_several_sizes_stay_float():
    model = Then(lambda m, x: F.adaptive_avg_pool2d(x, 4)).eval()
    assert "adaptive_avg_pool2d" in qat.plan(model, torch.randn(2, 3, 6, 6)).floats()

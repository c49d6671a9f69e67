"""Signals of one dimension in PyTorch: images of one row on the grid, exact in both runtimes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.runtimes import open_session
from support.operators import check_trained


class Signals(nn.Module):
    """Convolutions, BatchNorm, activations and pooling of one dimension, with a residual sum and a concatenation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.norm = nn.Conv1d(1, 8, 9, 2), nn.BatchNorm1d(8)
        self.depthwise, self.after = nn.Conv1d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm1d(8)
        self.causal, self.end = nn.Conv1d(8, 8, 3, dilation=2), nn.Linear(16, 3)
        with torch.no_grad():
            for norm in (self.norm, self.after):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        y = F.relu6(self.after(self.depthwise(x)))
        y = torch.sigmoid(self.causal(F.pad(y, (4, 0))))
        y = F.avg_pool1d(torch.cat([x + y, x], 1), 2)
        return self.end(F.adaptive_avg_pool1d(y, 1).flatten(1))


def test_signals_are_images_of_one_row(tmp_path):
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    prepared, ops = check_trained(Signals(), x, tmp_path)
    assert ops["QLinearConv"] == 4  # of which one is the average pooling
    assert prepared.get_parameter("stem.weight").shape == (8, 1, 9)
    kinds = [planned.op.kind for planned in prepared.plan.ops]
    assert "batch_norm" not in kinds
    assert kinds.count("reshape") == 3  # in, out, and the flattening: neighbours keep the axis between them


def test_signals_are_exact_in_litert(tmp_path):
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    prepared = qat.calibrate(qat.prepare(Signals().eval(), x[:2], target="litert"), [x])
    assert not prepared.plan.floats()
    assert qat.export(prepared.eval(), tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


def test_signals_in_float_reach_litert(tmp_path):
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    prepared = qat.prepare(Signals().eval(), x[:2], target="litert", recipe="float16").eval()
    path = qat.export(prepared, tmp_path / "m.tflite").path
    (got,) = open_session(path).run(x.numpy())
    np.testing.assert_allclose(got, prepared(x).detach().numpy(), atol=1e-4)

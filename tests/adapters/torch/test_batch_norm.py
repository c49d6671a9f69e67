"""BatchNorm of PyTorch that follows no linear layer: in integers, exact in both runtimes."""

import pytest
import torch
from torch import nn

import qat
from support.operators import RUNTIMES, check_then


def norm(channels, of=nn.BatchNorm1d):
    torch.manual_seed(5)
    made = of(channels).eval()
    with torch.no_grad():
        made.running_mean.normal_()
        made.running_var.uniform_(0.5, 2.0)
    return made


CASES = {
    "BatchNorm of features": (lambda m, x: m.extra(x.amax((2, 3))), norm(4)),
    "BatchNorm of rows": (lambda m, x: m.extra(x.flatten(2).flip(2)), norm(4)),
    "BatchNorm of each part of a batch, of which there is one": (
        lambda m, x: torch.cat([m.extra(part) for part in x.amax((2, 3)).chunk(1)]),
        norm(4),
    ),
}


@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_batch_norm_runs_on_integers(name, target, suffix, tmp_path):
    check_then(*CASES[name], target, tmp_path / f"m.{suffix}")


class InPlace(nn.Module):
    """Two blocks whose BatchNorm is folded, and an in-place operator on a view, which only PyTorch's own pass replaces."""

    def __init__(self, written):
        super().__init__()
        self.conv, self.norm, self.written = nn.Conv2d(3, 4, 3, bias=False), norm(4, nn.BatchNorm2d), written
        self.dense, self.rows = nn.Linear(4 * 36, 6, bias=False), norm(6)

    def forward(self, x):
        return self.rows(self.dense(self.written(self.norm(self.conv(x)))))


def filled(x):
    x[:, :2] = torch.relu(x[:, 2:])
    x[:, 3] = x[:, 1]
    x[:, 1, 2:4] = x[:, 0, 2:4]
    return x.flatten(1)


WRITTEN = {
    "dropout": lambda x: torch.nn.functional.dropout(x.flatten(1), 0.5, False, inplace=True),
    "relu of a slice": lambda x: (x[:, :2].relu_(), x.flatten(1))[1],
    "slices": filled,
}


@pytest.mark.slow
@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize("name", WRITTEN)
def test_batch_norm_is_folded_beside_an_in_place_operator_on_a_view(name, target, suffix, tmp_path):
    torch.manual_seed(0)
    model, x = InPlace(WRITTEN[name]).eval(), torch.rand(4, 3, 8, 8)
    prepared = qat.prepare(model, x, target=target)
    assert not [op.op.kind for op in prepared.plan.ops if "norm" in op.op.kind or "norm" in str(op.op.attrs.get("target"))]
    qat.calibrate(prepared, [x])
    torch.testing.assert_close(prepared(x), model(x), rtol=0, atol=0.1)
    assert qat.export(prepared, tmp_path / f"m.{suffix}", verify=[x]).parity.exact == 1

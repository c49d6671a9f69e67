"""BatchNorm of PyTorch that follows no linear layer: in integers, exact in both runtimes."""

import pytest
import torch
from torch import nn

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
}


@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_batch_norm_runs_on_integers(name, target, suffix, tmp_path):
    check_then(*CASES[name], target, tmp_path / f"m.{suffix}")

"""Volumes: conv3d with BatchNorm and activation folded in, pooling and a mean, exact in ONNX Runtime."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qat.adapters import torch as adapter
from qat.program import interpreter as reference
from support.operators import check_operator

GEOMETRIES = {
    "plain": {"kernel_size": 3},
    "stride and padding": {"kernel_size": 3, "stride": 2, "padding": 1},
    "of each axis": {"kernel_size": (1, 3, 2), "stride": (2, 1, 1), "padding": (0, 1, 0)},
    "same, even": {"kernel_size": 2, "padding": "same"},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "a filter for each channel": {"kernel_size": 3, "padding": 1, "groups": 4, "bias": False},
}


class Volumes(nn.Module):
    """A residual block of volumes, max pooling, and a classifier on the mean."""

    def __init__(self, options):
        super().__init__()
        torch.manual_seed(7)
        self.stem, self.norm = nn.Conv3d(2, 4, 1, bias=False), nn.BatchNorm3d(4)
        self.conv, self.after = nn.Conv3d(4, 4, **options), nn.BatchNorm3d(4)
        self.end = nn.Linear(4, 3)
        with torch.no_grad():
            for norm in (self.norm, self.after):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.norm(self.stem(x))), 3, 1, 1)
        y = F.relu6(self.after(self.conv(x)))
        return self.end((x + y if x.shape == y.shape else y).mean((2, 3, 4)))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_volumes(name, tmp_path):
    x = torch.randn(4, 2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    prepared, ops = check_operator(Volumes(GEOMETRIES[name]).eval(), x, "conv.weight", tmp_path)
    assert (ops["QLinearConv"], ops["DequantizeLinear"]) == (2, 1)
    values = adapter.grid_values(prepared, x.numpy())
    program = adapter.lower(prepared)
    steps = {s.outputs[0]: s for s in program.instructions if s.kind == "conv3d"}
    for output, step in steps.items():  # the reference of one kernel: max pooling is PyTorch's
        got = reference._STEPS["conv3d"](program, step, [values[step.inputs[0]]])
        np.testing.assert_array_equal(got, values[output])

"""Limits of a target's kernels, found when a model is planned and not when it is exported."""

import torch
from torch import nn

import qat


class Tokens(nn.Module):
    """A dense layer on a tensor of rank 3, then one of rank 2."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(4, 4)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.mixed(x).flatten(1))


def test_dense_layers_on_three_axes_run_in_integers():
    for target in ("onnxruntime", "litert", "tensorrt"):
        assert not qat.plan(Tokens().eval(), torch.zeros(2, 6, 4), target=target).floats()

"""Outliers that a benchmark puts into a ViT leave its float function as it is; a change of the function is refused."""

import pytest
import torch
from architectures.torch_transformers import ViT
from outliers import lift_stream, raise_all_channels, same_function


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ViT(size=8, patch=4, width=16, depth=1, channels=1, heads=2)


def test_raised_channels_leave_the_function(net):
    changed = same_function(net, torch.randn(4, 1, 8, 8), raise_all_channels)
    assert [int((norm.weight == 256).sum()) for norm in (changed.layers[0].norm1, changed.layers[0].norm2, changed.norm)] == [
        4,
        4,
        4,
    ]
    assert bool((net.norm.weight == 1).all())


def test_a_lifted_stream_leaves_the_function(net):
    assert float(same_function(net, torch.randn(4, 1, 8, 8), lift_stream).position.detach().mean()) > 299


def test_another_function_is_refused(net):
    with pytest.raises(AssertionError, match="the float function has changed"):
        same_function(net, torch.randn(4, 1, 8, 8), lambda model: model.head.weight.mul_(2))

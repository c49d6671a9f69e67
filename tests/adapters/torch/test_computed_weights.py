"""Weights that are computed from parameters: weight_norm, spectral_norm, weight standardization, masks of pruning."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import qat


def after_a_pass(wrap):
    """Return a net whose layer keeps the weight of its last pass, which PyTorch does not copy."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5))
    wrap(model[0])
    model(torch.rand(2, 3, 12, 12))
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
    ids=["prune", "weight_norm", "spectral_norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_net_that_holds_a_computed_weight_is_copied(wrap):
    assert qat.prepare(after_a_pass(wrap), torch.rand(2, 3, 12, 12)).plan


def test_what_cannot_be_copied_is_said():
    model = nn.Sequential(nn.Linear(3, 4))
    model.log = open(__file__)  # noqa: SIM115
    with model.log, pytest.raises(qat.QatError, match=r"Sequential cannot be copied.*outside the model's layers"):
        qat.prepare(model, torch.rand(2, 3))

"""What an accelerator would do, without one: no step waits for the device, and a loss that is read late loses nothing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.adapters.torch import set_range_tracking
from qat.errors import QatError
from qat.runs.zoo_torch import mobilenet_small
from qat.trainers.torch import optimizers
from support.nets import prepared, train, weights

LATE = pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])


class Gated(nn.Module):
    """Branches that are multiplied, joined and attended to."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.query, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        y = nn.functional.silu(self.stem(x))
        y = torch.cat([y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True))), y], 1)
        tokens = self.norm(y.flatten(2).transpose(1, 2))
        return self.head(nn.functional.scaled_dot_product_attention(self.query(tokens), tokens, tokens)).mean(1)


@pytest.mark.parametrize("make", [mobilenet_small, Gated])
def test_no_node_reads_a_value_from_the_device(make, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    model = qat.calibrate(qat.prepare(make().eval(), x), [x])
    set_range_tracking(model, False)
    model.to("meta").train()  # a device whose tensors have no values: reading one is an error
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # which knows no such device
    loss = model(x.to("meta")).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters()).step()
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


def late(monkeypatch):
    monkeypatch.setattr(optimizers, "skips", lambda name, device: True)


@LATE
def test_losses_read_late_are_the_same_run(optimizer, monkeypatch, tmp_path):
    model, history = train("torch", tmp_path / "a", optimizer=optimizer, learning_rate=0.005)
    late(monkeypatch)
    other, later = train("torch", tmp_path / "b", optimizer=optimizer, learning_rate=0.005)
    assert later.steps == history.steps
    np.testing.assert_allclose([e.loss for e in later.epochs], [e.loss for e in history.epochs], rtol=1e-3)
    for array, expected in zip(weights(other), weights(model), strict=True):
        np.testing.assert_allclose(array, expected, rtol=0.02, atol=2e-3)


@LATE
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loss_read_late_that_is_no_number_changes_no_weight(optimizer, accumulate, monkeypatch):
    late(monkeypatch)
    model, losses, before = prepared("torch"), [], []

    def broken_once(outputs, labels):
        losses.append(len(losses))
        if len(losses) == 4:  # the first of the second update
            before.extend(p.detach().clone() for p in model.parameters())
        scale = math.nan if len(losses) >= 4 else 1.0
        return nn.functional.cross_entropy(outputs, labels) * scale

    options = {"loss": broken_once, "metrics": ["top1"], "accumulate": accumulate, "checkpoint_every": None, "divergence": None}
    with pytest.raises(QatError, match=r"the loss is nan at step 3 .* changed no weight"):
        train("torch", None, model, optimizer=optimizer, **options)
    assert len(losses) == 5  # the next step was under way
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))

"""Dropout and its like act in training of a prepared model, and nowhere else."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat


class OwnDropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        mask = torch.floor(0.5 + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device))
        return x / 0.5 * mask


class Bernoulli(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5).div_(0.5)


class Copied(nn.Module):
    def forward(self, x):
        return F.dropout(x.clone(), 0.5, self.training)


class InForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x):
        return self.b(F.dropout(torch.relu(self.a(x)), 0.5, self.training))


class Attention(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


def images(act):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), act, nn.Conv2d(8, 4, 3)), torch.rand(8, 3, 8, 8)


def vectors(act):
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), act, nn.Linear(64, 4)), torch.rand(8, 8)


CASES = {
    "dropout": lambda: vectors(nn.Dropout(0.5)),
    "functional": lambda: (InForward(), torch.rand(8, 8)),
    "dropout2d": lambda: images(nn.Dropout2d(0.5)),
    "before a table": lambda: vectors(nn.Sequential(nn.Dropout(0.5), nn.GELU())),
    "alpha": lambda: vectors(nn.AlphaDropout(0.5)),
    "own stochastic depth": lambda: images(OwnDropPath()),
    "in-place mask": lambda: images(Bernoulli()),
    "attention": lambda: (Attention(), torch.rand(4, 6, 16)),
    "of a copy": lambda: vectors(Copied()),
    "on the output": lambda: (nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5)), torch.rand(8, 8)),
    "on the input": lambda: (nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 64)), torch.rand(8, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_training_adds_acts_in_training_alone(name):
    model, x = CASES[name]()
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    without = qat.calibrate(qat.prepare(model, x, dropout=False), [x])
    assert len(prepared.plan.acts) == 1
    assert "in training" in str(prepared.plan)
    prepared.train()
    assert (prepared(x) != prepared(x)).any()
    torch.manual_seed(1)
    first = prepared(x)
    torch.manual_seed(1)
    assert torch.equal(first, prepared(x))
    first.sum().backward()
    assert torch.equal(prepared.eval()(x), without.eval()(x))
    without.train()
    assert torch.equal(without(x), without(x))


@pytest.mark.parametrize("between", [nn.MaxPool2d(2), nn.ReLU6()], ids=["pooled", "clipped"])
def test_what_is_dropped_reaches_a_table_by_an_integer_kernel_and_is_exported(between, tmp_path):
    model, x = images(nn.Sequential(nn.Dropout(0.5), between, nn.GELU()))
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    prepared.train()(x).sum().backward()
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


class Block(nn.Module):
    """A block of Hugging Face's: heads that are joined by a copy, which attention without dropout needs none of, and a sum."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.drop, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.Dropout(0.5), nn.LayerNorm(16)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 if self.training else 0.0).transpose(1, 2).contiguous()
        return self.norm(x + self.drop(self.out(y.flatten(2))))


def test_dropouts_behind_attention_are_kept(caplog):
    x = torch.rand(4, 6, 16)
    prepared = qat.prepare(nn.Sequential(Block(), Block()), x)
    assert len(prepared.plan.acts) == 4
    assert "left out" not in caplog.text


class OtherParts(nn.Module):
    """Splits otherwise in training, after a dropout (VITS)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x)
        return self.b(F.dropout(h, 0.5).split([4, 4], -1)[0] if self.training else h.split([4, 2, 2], -1)[0])


def test_parts_of_another_split_in_training_are_left_out():
    assert qat.prepare(OtherParts(), torch.rand(8, 8)).plan.ops


def test_the_same_random_numbers_give_the_float_models_result():
    model, x = vectors(nn.Dropout(0.5))
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    torch.manual_seed(3)
    want = model.train()(x)
    torch.manual_seed(3)
    got = prepared.train()(x)
    inside = (got > got.min()) & (got < got.max())  # dropout reaches beyond the calibrated range of the output
    assert inside.sum() > 8
    assert (got - want)[inside].abs().max() < 0.05 * want.abs().max()


def test_a_copy_and_a_pickle_keep_it():
    model, x = vectors(nn.Dropout(0.5))
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    for made in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        made.train()
        assert (made(x) != made(x)).any()


def test_a_model_without_has_no_place_for_it():
    model, x = vectors(nn.Identity())
    assert not hasattr(qat.prepare(model, x)._qat, "acts")


def test_dropout_of_probability_0_is_none():
    model, x = vectors(nn.Dropout(0.0))
    assert qat.prepare(model, x).plan.acts == ()


def test_attention_without_dropout_is_captured_once(monkeypatch):
    """PyTorch counts its kernel among the random operators, whatever the probability."""
    captured, export = [], torch.export.export

    def counted(*args, **kwargs):
        captured.append(args)
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    assert qat.prepare(Attention(0.0), torch.rand(4, 6, 16)).plan.acts == ()
    assert len(captured) == 1
    assert len(qat.prepare(Attention(), torch.rand(4, 6, 16)).plan.acts) == 1


def test_the_float_model_keeps_its_mode_and_its_statistics():
    model, x = images(nn.Dropout(0.5))
    before = copy.deepcopy(model.state_dict())
    model.train()
    qat.prepare(model, x)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

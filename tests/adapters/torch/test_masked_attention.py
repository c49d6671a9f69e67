"""Masked scores in PyTorch: every way to hide them runs in integers, exact in both runtimes; a hidden token has no influence."""

import math

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.arithmetic.masks import MAKES_MASK, TAKES_PART

LENGTH, WIDTH, HEADS = 12, 16, 2


def scores(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def padding(mask):
    return mask[:, None, None, :]


def far(mask):
    return (1.0 - padding(mask).float()) * torch.finfo(torch.float32).min


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()

#: ``(module, queries, keys, values, mask of int64 with 1 for a token)`` to the result.
WAYS = {
    "causal": lambda m, q, k, v, mask: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "boolean": lambda m, q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=padding(mask) > 0),
    "least": lambda m, q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=far(mask)),
    "buffer": lambda m, q, k, v, mask: (scores(q, k) + m.far).softmax(-1) @ v,
    "filled": lambda m, q, k, v, mask: scores(q, k).masked_fill(padding(mask) == 0, -torch.inf).softmax(-1) @ v,
    "chosen": lambda m, q, k, v, mask: torch.where((padding(mask) > 0) & m.seen, scores(q, k), -1e4).softmax(-1) @ v,
    "subtracted": lambda m, q, k, v, mask: (scores(q, k) - 1e4 * (1 - padding(mask).float())).softmax(-1) @ v,
    "two masks": lambda m, q, k, v, mask: (scores(q, k).masked_fill(~m.seen, -1e9) + far(mask)).softmax(-1) @ v,
    "with a bias": lambda m, q, k, v, mask: (scores(q, k) + (m.bias + far(mask))).softmax(-1) @ v,
    "in a bias": lambda m, q, k, v, mask: (scores(q, k) + torch.where(padding(mask) > 0, m.bias, -1e9)).softmax(-1) @ v,
    "scaled after": lambda m, q, k, v, mask: (
        ((q @ k.mT).masked_fill(padding(mask) == 0, -torch.inf) / WIDTH**0.5).softmax(-1) @ v
    ),
    "bias after": lambda m, q, k, v, mask: (scores(q, k).masked_fill(padding(mask) == 0, -1e9) + m.bias).softmax(-1) @ v,
    "bias of a layer": lambda m, q, k, v, mask: (
        (scores(q, k) + (q @ m.near).view(-1, HEADS, LENGTH, 1, LENGTH).squeeze(3))
        .masked_fill(padding(mask) == 0, -1e9)
        .softmax(-1)
        @ v
    ),
    "least of two": lambda m, q, k, v, mask: torch.minimum(scores(q, k), (2 * padding(mask).float() - 1) * 1e4).softmax(-1) @ v,
    "zeros like": lambda m, q, k, v, mask: (
        (scores(q, k) + q.new_zeros(LENGTH, LENGTH).masked_fill(~m.seen, -100.0)).softmax(-1) @ v
    ),
    "limited": lambda m, q, k, v, mask: (
        torch.max(scores(q, k) + far(mask), torch.tensor(torch.finfo(torch.float32).min)).clamp(min=-1e9).softmax(-1) @ v
    ),
}


class Attention(nn.Module):
    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 5)
        self.bias = nn.Parameter(torch.randn(1, HEADS, LENGTH, LENGTH))
        self.sinks = nn.Parameter(torch.randn(1, HEADS, 1, 1))
        self.near = nn.Parameter(torch.randn(WIDTH // HEADS, LENGTH))
        self.register_buffer("seen", CAUSAL)
        self.register_buffer("places", torch.linspace(-4, 4, LENGTH * LENGTH).view(LENGTH, LENGTH))
        self.register_buffer("far", torch.where(CAUSAL, 0.0, -torch.inf))
        with torch.no_grad():
            self.qkv.weight[: 2 * WIDTH] *= 3  # scores that differ

    def forward(self, x, mask):
        q, k, v = (t.view(-1, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(self.way(self, q, k, v, mask).transpose(1, 2).reshape(-1, LENGTH, WIDTH))


@pytest.fixture(scope="module")
def batch():
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, LENGTH + 1, (24,), generator=g)
    return torch.randn(24, LENGTH, WIDTH, generator=g), (torch.arange(LENGTH)[None] < lengths[:, None]).long()


def trained(model, batch, target):
    """Prepare, calibrate, take a step: the model in eval mode, near the float one before the step."""
    prepared = qat.calibrate(qat.prepare(model.eval(), tuple(t[:2] for t in batch), target=target), [batch])
    with torch.no_grad():
        expected = model(*batch)
        assert float((prepared.eval()(*batch) - expected).norm() / expected.norm()) < 0.1
    prepared.train()
    prepared(*batch).square().mean().backward()
    torch.optim.SGD(prepared.parameters(), 0.01).step()
    return prepared.eval()


@pytest.mark.parametrize("name", WAYS)
def test_masked_scores_are_exact_in_integers(name, batch, tmp_path):
    prepared = trained(Attention(WAYS[name]), batch, "onnxruntime")
    plan = prepared.plan
    made = {op for op, reason in plan.floats().items() if reason != MAKES_MASK}
    left = [p.op for p in plan.ops if p.op.name in made and plan.graph.tensors[p.op.output].dtype == "float32"]
    assert not left, left
    kinds = [p.op.kind for p in plan.ops if p.integer]
    assert kinds.count("mask") == (2 if name == "two masks" else 1) and kinds.count("softmax") == 1
    assert float(prepared.get_parameter("qkv.weight").grad.abs().sum()) > 0
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[batch])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    graph = onnx.load(artifact.path).graph
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "least", "in a bias", "bias of a layer"])
def test_masked_scores_are_exact_in_litert(name, batch, tmp_path):
    pytest.importorskip("tensorflow")
    prepared = trained(Attention(WAYS[name]), batch, "litert")
    assert {p.op.kind for p in prepared.plan.ops if p.integer} >= {"mask", "softmax", "matmul"}
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[batch])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("litert", marks=pytest.mark.slow)])
def test_a_mask_of_scores_beside_attention_sinks_runs_in_integers(target, batch, tmp_path):
    def way(m, q, k, v, mask):  # as GPT-OSS: a score of no token beside each row, and each row less its greatest
        x = torch.cat([scores(q, k) + far(mask), m.sinks.expand(len(q), -1, LENGTH, -1)], -1)
        return (x - x.max(-1, keepdim=True).values).softmax(-1)[..., :-1] @ v

    prepared = trained(Attention(way), batch, target)
    kinds = [p.op.kind for p in prepared.plan.ops if p.integer]
    assert {"concat", "mask", "softmax"} <= set(kinds) and "neg" not in kinds
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[batch])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


class Pooling(nn.Module):
    """Tokens pooled by shares, whose scores change their shape between a mask and the softmax."""

    def __init__(self, shares):
        super().__init__()
        torch.manual_seed(0)
        self.score, self.out, self.shares = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 5), shares

    def forward(self, x, mask):
        return self.out((self.shares(self.score(x), mask[..., None]) * x).sum(1))


SHARES = {
    "another axis": lambda s, mask: (s + (1 - mask.float()) * -1e4).softmax(1),
    "laid anew": lambda s, mask: s.masked_fill(mask == 0, -1e9).view(-1, 1, LENGTH).softmax(-1).view(-1, LENGTH, 1),
}


def test_a_mask_of_other_rows_keeps_the_scores_float(batch):
    def shares(s, mask):
        parts = s.view(-1, 2, LENGTH // 2, 1) + (1 - mask[:, None, ::2].float()) * -1e9
        return parts.view(-1, LENGTH, 1).mT.softmax(-1).mT

    assert not {"mask", "softmax"} & trained_pooling(shares, batch)


@pytest.mark.parametrize("name", SHARES)
def test_scores_that_change_their_shape_behind_a_mask_keep_their_integers(name, batch, tmp_path):
    assert trained_pooling(SHARES[name], batch, tmp_path / "m.onnx") >= {"mask", "softmax"}


def trained_pooling(shares, batch, path=None):
    """Prepare and calibrate: near the float model, and equal to the artifact. Returns the kinds that run in integers."""
    model = Pooling(shares).eval()
    prepared = qat.calibrate(qat.prepare(model, tuple(t[:2] for t in batch)), [batch]).eval()
    with torch.no_grad():
        expected = model(*batch)
        assert float((prepared(*batch) - expected).norm() / expected.norm()) < 0.05
    assert path is None or qat.export(prepared, path, verify=[batch]).parity.exact == 1.0
    return {p.op.kind for p in prepared.plan.ops if p.integer}


class Actions(nn.Module):
    """Scores of actions, of which some are forbidden: no softmax reads them."""

    def __init__(self, mask):
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.mask = nn.Linear(8, 6), mask

    def forward(self, x, allowed):
        return self.scores(x) + self.mask(allowed)


MASKS = {
    "product": lambda allowed: (1 - allowed) * -1e9,
    "logarithm": lambda allowed: torch.log(allowed).clamp(min=torch.finfo(torch.float32).min),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_of_scores_that_leave_the_model_does_not_take_their_integers(mask, tmp_path):
    x, allowed = torch.randn(64, 8), (torch.arange(64 * 6).view(64, 6) % 3 > 0).float()
    model = Actions(MASKS[mask]).eval()
    prepared = qat.calibrate(qat.prepare(model, (x[:2], allowed[:2])), [(x, allowed)]).eval()
    assert TAKES_PART in prepared.plan.floats().values()
    with torch.no_grad():
        assert float((prepared(x, allowed) - model(x, allowed))[allowed > 0].abs().max()) < 0.05
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[(x, allowed)]).parity.exact == 1.0


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_hidden_token_has_no_influence(target, batch):
    prepared = trained(Attention(WAYS["least"]), batch, target)
    x, mask = batch
    with torch.no_grad():
        before, after = prepared(x, mask), prepared(torch.where(mask[..., None] > 0, x, -x.flip(1)), mask)
    assert torch.equal(before[mask > 0], after[mask > 0])
    with torch.no_grad():  # a row of which nothing is shown
        assert torch.isfinite(prepared(x, torch.zeros_like(mask))).all()


def test_training_that_tracks_ranges_keeps_room_for_hidden_scores(batch):
    prepared = qat.calibrate(qat.prepare(Attention(WAYS["least"]).eval(), tuple(t[:2] for t in batch)), [batch])
    plan = prepared.plan
    (mask,) = [p.op for p in plan.ops if p.op.kind == "mask"]
    grid = prepared.grids[plan.group_of[mask.output]]
    assert plan.group_of[mask.inputs[0]] == grid.group.name != plan.group_of[mask.inputs[1]]
    calibrated = float(grid.range[0])
    qat.finetune(prepared, [(batch, torch.zeros(24, LENGTH, 5))] * 20, loss="mse", learning_rate=1e-9, progress=False)
    assert float(grid.range[0]) == pytest.approx(calibrated, rel=0.2)


def test_a_float_mask_of_the_models_own_inputs_hides(tmp_path):
    def way(m, q, k, v, mask):
        return (scores(q, k) + ((1 - mask) * -10000.0)[:, None, None]).softmax(-1) @ v

    x, mask = torch.randn(8, LENGTH, WIDTH), (torch.rand(8, LENGTH) > 0.3).float()
    prepared = trained(Attention(way), (x, mask), "onnxruntime")
    assert [p.op.kind for p in prepared.plan.ops if p.integer].count("mask") == 1
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[(x, mask)]).parity.exact == 1.0


def test_a_bias_is_no_mask(batch):
    """Positions as SAM and BoTNet have them, and those of a buffer, as LeViT keeps them."""

    def layer(m, q, k, v, mask):
        near = torch.einsum("bhqc,ck->bhqk", q, m.near)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=near * 2) * padding(mask).mT

    def buffer(m, q, k, v, mask):
        return (scores(q, k) + m.places).softmax(-1) @ v * padding(mask).mT

    for way in (layer, buffer):
        assert TAKES_PART not in qat.plan(Attention(way).eval(), tuple(t[:2] for t in batch)).floats().values()


def test_a_mask_that_shifts_the_scores_it_shows_keeps_them_float(batch, tmp_path):
    slopes = torch.tensor([0.5, 0.25])[:, None, None]

    def alibi(m, q, k, v, mask):
        places = padding(mask).float().cumsum(-1) * slopes
        return (scores(q, k) + places).masked_fill(padding(mask) == 0, -torch.inf).softmax(-1) @ v

    prepared = trained(Attention(alibi), batch, "onnxruntime")
    floats = prepared.plan.floats()
    assert TAKES_PART in floats.values() and any("softmax" in op for op in floats)
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[batch])
    assert artifact.parity.exact > 0.9 and artifact.parity.max_lsb <= 1


SLOPES = torch.tensor([0.5, 0.25])[:, None, None]
PLACES = torch.arange(LENGTH)

#: ALiBi of fixed positions (Press et al. 2022, "Train Short, Test Long"): by key, by distance, within the mask, as a buffer.
FIXED = {
    "keys": lambda m, q, k, v: (scores(q, k) + SLOPES * PLACES.float()).masked_fill(~m.seen, -1e9).softmax(-1) @ v,
    "distances": lambda m, q, k, v: (scores(q, k) - SLOPES * (PLACES[:, None] - PLACES).abs()).softmax(-1) @ v,
    "in the mask": lambda m, q, k, v: (
        (scores(q, k) + (SLOPES * PLACES.float()).expand(HEADS, LENGTH, LENGTH).masked_fill(~m.seen, -torch.inf)).softmax(-1) @ v
    ),
    "with the mask": lambda m, q, k, v: (scores(q, k) + (SLOPES * (PLACES - LENGTH + 1.0) + m.far)).softmax(-1) @ v,
}


@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", "onnx"), ("litert", "tflite")])
@pytest.mark.parametrize("name", FIXED)
def test_fixed_biases_of_positions_run_in_integers(name, target, suffix, batch, tmp_path):
    prepared = trained(Attention(lambda m, q, k, v, mask: FIXED[name](m, q, k, v)), batch, target)
    assert TAKES_PART not in prepared.plan.floats().values()
    assert {p.op.kind for p in prepared.plan.ops if p.integer} >= {"add", "softmax"}
    parity = qat.export(prepared, tmp_path / f"m.{suffix}", verify=[batch]).parity
    assert parity.exact == 1.0, parity.first_difference


@pytest.mark.parametrize(
    "bias", [lambda mask: 10 * SLOPES * PLACES.float(), lambda mask: SLOPES * padding(mask).cumsum(-1)], ids=["fixed", "by input"]
)
def test_a_bias_that_may_span_far_keeps_the_scores_float(bias, batch):
    model = Attention(lambda m, q, k, v, mask: (scores(q, k) + bias(mask)).softmax(-1) @ v)
    assert TAKES_PART in qat.plan(model.eval(), tuple(t[:2] for t in batch)).floats().values()


def test_what_one_scale_has_to_hold():
    from qat.arithmetic.masks import reach, spread

    assert reach(1024) == reach(None) > reach(16)
    x, shown = np.array([[3.0, -40.0, 9.0], [1.0, 2.0, 0.0], [5.0, 5.0, 5.0]]), np.array([[1, 1, -1], [1, 1, 1], [-1, -1, -1]])
    np.testing.assert_array_equal(spread(x, shown, 10.0), [[3.0, -7.0, -7.0], [1.0, 2.0, 0.0]])


class Mapped(nn.Module):
    """Attention within three places of the past; the mask is a function of three numbers, repeated by ``torch.vmap``."""

    def __init__(self):
        super().__init__()
        self.read, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        shown = lambda sample, i, j: (j <= i) & (j > i - 3) & (sample >= 0)  # noqa: E731
        for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
            shown = torch.vmap(shown, in_dims=axes)
        places = torch.arange(x.shape[1])
        q, k, v = self.read(x).chunk(3, -1)
        hidden = ~shown(torch.arange(x.shape[0]), places, places)
        return self.out((q @ k.transpose(1, 2) / 8**0.5).masked_fill(hidden, -1e9).softmax(-1) @ v)


@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
def test_a_mask_that_vmap_makes(target, suffix, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(6, 5, 8)
    prepared = qat.calibrate(qat.prepare(Mapped().eval(), x[:2], target=target), [x])
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1

"""Attention in PyTorch, however it is written: exact in both runtimes, trained with a gradient."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters import torch as adapter
from qat.program import interpreter as reference

WIDTH, HEADS, LENGTH = 16, 4, 6


class Attention(nn.Module):
    """Self-attention whose core is ``work(self, q, k, v)``, of heads [batch, heads, length, width / heads]."""

    def __init__(self, work):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.work = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 10), work
        self.bias = nn.Parameter(torch.randn(HEADS, LENGTH, LENGTH))
        self.table = nn.Parameter(torch.randn(20, HEADS))
        self.register_buffer("places", torch.arange(LENGTH * LENGTH).reshape(LENGTH, LENGTH) % 20)
        self.register_buffer("far", torch.full((LENGTH, LENGTH), -10000.0).triu(1))

    def forward(self, x):
        heads = self.qkv(x).reshape(len(x), LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = self.work(self, *heads.unbind(0))
        return self.out(y.transpose(1, 2).reshape(len(x), LENGTH, WIDTH))


def scores(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def batched(m, q, k, v):
    """Attention of heads that are folded into the batch, with a mask that the product is added to, as in BLOOM."""
    return m.far.baddbmm(q, k.mT, alpha=0.5).softmax(-1) @ v


WAYS = {
    "one operator": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v),
    "own scale": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    "by hand": lambda m, q, k, v: scores(q, k).softmax(-1) @ v,
    "scaled before": lambda m, q, k, v: ((q * 0.5) @ k.mT).softmax(-1) @ v,
    "einsum": lambda m, q, k, v: torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v),
    "einsum of heads": lambda m, q, k, v: torch.einsum("...ij,...jd", torch.einsum("...id,...jd->...ij", q, k).softmax(-1), v),
    "baddbmm": lambda m, q, k, v: batched(m, *(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, (-1, HEADS)),
    "dropout": lambda m, q, k, v: F.dropout(scores(q, k).softmax(-1), 0.1, m.training) @ v,
    "scaled before a slice": lambda m, q, k, v: (q @ k.mT * 0.4)[..., :-1].softmax(-1) @ v[..., :-1, :],
    "learned bias": lambda m, q, k, v: (scores(q, k) + m.bias).softmax(-1) @ v,
}


@pytest.fixture(scope="module")
def tokens():
    return torch.randn(8, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


def trained(model, x, target):
    """Prepare, calibrate, take a step: the model in eval mode, near the float one before the step."""
    prepared = qat.calibrate(qat.prepare(model.eval(), x[:2], target=target), [x])
    with torch.no_grad():
        expected = model(x)
        assert float((prepared.eval()(x) - expected).norm() / expected.norm()) < 0.1
    prepared.train()
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01)
    prepared(x).square().mean().backward()
    optimizer.step()
    return prepared.eval()


@pytest.mark.parametrize("name", WAYS)
def test_attention_is_exact_in_integers(name, tokens, tmp_path):
    prepared = trained(Attention(WAYS[name]), tokens, "onnxruntime")
    assert not prepared.plan.floats(), prepared.plan.floats()
    assert [p.op.kind for p in prepared.plan.ops].count("matmul") == 2
    assert float(prepared.get_parameter("qkv.weight").grad.abs().sum()) > 0
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[tokens])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    program = adapter.lower(prepared)
    values = adapter.grid_values(prepared, tokens.numpy())
    for step in program.instructions:
        if step.kind in ("matmul", "softmax"):
            inputs = [values[n] for n in step.inputs]
            np.testing.assert_array_equal(values[step.outputs[0]], reference._STEPS[step.kind](program, step, inputs))


@pytest.mark.slow
def test_a_compiled_step_has_the_gradients_of_an_eager_one(tokens):
    """Compilers took the gradient of a clipped value to lie in memory as the value does, and a view of it failed."""
    model = Attention(WAYS["one operator"])
    prepared = qat.calibrate(qat.prepare(model.eval(), tokens[:2]), [tokens]).train()
    gradients = []
    for step in (prepared, torch.compile(prepared, backend="aot_eager")):
        prepared.zero_grad()
        step(tokens).square().mean().backward()
        gradients.append([p.grad.clone() for p in prepared.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("name", ["one operator", "scaled before", "learned bias"])
def test_attention_is_exact_in_litert(name, tokens, tmp_path):
    pytest.importorskip("tensorflow")
    prepared = trained(Attention(WAYS[name]), tokens, "litert")
    assert not prepared.plan.floats(), prepared.plan.floats()
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[tokens])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(weights, tokens, tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(WIDTH, WIDTH)
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

        def forward(self, x):
            x = self.first(x)
            return self.attention(x, x, x, need_weights=weights)[0]

    prepared = trained(Model(), tokens, "onnxruntime")
    kinds = [p.op.kind for p in prepared.plan.ops if p.integer]
    assert kinds.count("matmul") == 2 and kinds.count("dense") == 3 and kinds.count("softmax") == 1
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[tokens])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


class Block(nn.Module):
    """A layer of a transformer whose norms come first, in the same places as a Vision Transformer's."""

    def __init__(self, affine):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norms = nn.Linear(WIDTH, WIDTH), nn.ModuleList(nn.LayerNorm(WIDTH, 1e-6, affine) for _ in range(3))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x):
        x = self.first(x)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x)[:, 0])


@pytest.mark.parametrize("affine", [True, False])
def test_a_layer_with_its_norms_is_exact(affine, tokens, tmp_path):
    prepared = trained(Block(affine), tokens, "onnxruntime")
    norms = [p for p in prepared.plan.ops if p.op.kind == "layer_norm"]
    assert len(norms) == 3 and all(p.integer for p in norms)
    if affine:
        assert float(prepared.get_parameter("norms.0.weight").grad.abs().sum()) > 0
    many = torch.randn(1024, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[tokens, many])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


class Words(nn.Module):
    """Embedded words, with the same weight before and after where ``tied``."""

    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(50, WIDTH), nn.Parameter(torch.randn(1, LENGTH, WIDTH) * 0.1)
        self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 50, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(F.relu(self.layer(self.words(ids) + self.positions)))


@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
@pytest.mark.parametrize("tied", [False, True])
def test_embeddings(target, suffix, tied, tmp_path):
    ids = torch.randint(0, 20, (8, LENGTH), generator=torch.Generator().manual_seed(0))
    prepared = trained(Words(tied), ids, target)
    assert not prepared.plan.floats()
    # Words that calibration did not see are within the range, too.
    unseen = torch.arange(20, 50).reshape(5, LENGTH)
    artifact = qat.export(prepared, tmp_path / f"m{suffix}", verify=[ids, unseen])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    weight = next(w for name, w in prepared.named_parameters() if w.shape == (50, WIDTH) and (tied or "words" in name))
    assert float(weight.grad.abs().sum()) > 0
    grid = prepared.grids[next(p.op.output for p in prepared.plan.ops if p.op.kind == "embedding")]
    assert float(weight.detach().abs().max()) < 1.05 * float(grid.range.abs().max())


class Lines(nn.Module):
    """Lines of a parameter, taken by an index."""

    def __init__(self, take):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.take = nn.Parameter(torch.randn(50, WIDTH)), nn.Linear(WIDTH, 50), take

    def forward(self, ids):
        return self.head(self.take(self.table, ids))


@pytest.mark.parametrize(
    ("target", "take"),
    [
        ("onnxruntime", lambda table, ids: table[ids - 1]),
        ("litert", lambda table, ids: table[ids - 1]),
        ("litert", lambda table, ids: table.index_select(0, ids[:, 0])),
    ],
)
def test_a_look_up_by_hand_is_an_embedding(target, take, tmp_path):
    ids = torch.randint(0, 50, (64, LENGTH), generator=torch.Generator().manual_seed(0))
    prepared = trained(Lines(take), ids, target)
    assert "embedding" in {p.op.kind for p in prepared.plan.ops if p.integer}
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[ids])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


class Bags(nn.Module):
    def __init__(self, mode, shares):
        super().__init__()
        torch.manual_seed(0)
        self.bags, self.head, self.shares = nn.EmbeddingBag(20, WIDTH, mode=mode), nn.Linear(WIDTH, 4), shares

    def forward(self, ids):
        return self.head(self.bags(ids, per_sample_weights=ids.float() / 20 if self.shares else None))


@pytest.mark.parametrize(
    ("target", "mode", "shares"),
    [("onnxruntime", "sum", False), ("litert", "mean", False), ("onnxruntime", "max", False), ("litert", "sum", True)],
)
def test_bags_of_embeddings(target, mode, shares, tmp_path):
    ids = torch.randint(0, 20, (8, 3), generator=torch.Generator().manual_seed(0))
    prepared = trained(Bags(mode, shares), ids, target)
    assert {"embedding", "dense"} <= {p.op.kind for p in prepared.plan.ops if p.integer}
    assert qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[ids, ids[:5]]).parity.exact == 1.0


class RelativePositions(nn.Module):
    """Attention whose scores get a parameter that a flattened integer buffer chooses from, as Swin's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bias, self.qkv = nn.Parameter(torch.randn(9, 2)), nn.Linear(8, 24)
        self.register_buffer("index", torch.arange(16).reshape(4, 4) % 9)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.index.flatten()].view(4, 4, 2).permute(2, 0, 1)
        return (torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v).transpose(1, 2).reshape(len(x), 4, 8)


def test_a_flattened_buffer_of_indices_stays_integers(tmp_path):
    x = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(1))
    prepared = qat.calibrate(qat.prepare(RelativePositions().eval(), x), [x])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0

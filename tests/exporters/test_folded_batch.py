"""Operators that keep PyTorch's implementation, on tensors whose batch is folded with windows or heads, or is not first."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qat
from qat.adapters.torch.capture.trace import trace
from qat.graph import graph


class LookedUp(nn.Module):
    """A block of ConvNeXt: the function between two dense layers is read and written by integers alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.up, self.down = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2).mean((2, 3))


class Windows(nn.Module):
    """Attention in four windows, as Swin: four times the batch is the first axis of what the dense layers read."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        n, h, w, c = x.shape
        x = F.pad(x, (0, 0, 0, -w % 2, 0, -h % 2))  # to whole windows: by nothing here
        windows = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(windows).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = self.out(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c))
        return y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape_as(x)


class Attention(nn.Module):
    """PyTorch's own: its dense layers read (tokens, batch, width), and it views what it has copied."""

    def __init__(self):
        super().__init__()
        self.before, self.attention, self.after = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        x = self.before(x)
        return self.after(self.attention(x, x, x, need_weights=False)[0])


class Encoder(nn.Module):
    """A layer of PyTorch's own transformer, its heads folded into the batch behind the tokens."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x)


class Behind(nn.Module):
    """The batch is no first axis, and a multiple of it becomes one: (tokens, heads of all samples, width)."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(8, 8), nn.Linear(4, 4)

    def forward(self, x):
        y = self.before(x).transpose(0, 1)
        y = self.after(y.reshape(x.shape[1], -1, 4).flip(0))
        return y.view(x.shape[1], x.shape[0], 8).transpose(0, 1)


class Token(nn.Module):
    """A class token before the rest, as ViT: ``len`` of a tensor is no symbol where the model is captured by running it."""

    def __init__(self):
        super().__init__()
        self.before, self.after, self.token = nn.Linear(8, 8), nn.Linear(8, 8), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        return self.after(torch.cat([self.token.expand(len(x), -1, -1), F.layer_norm(self.before(x), (8,))], 1))


class Prefix(nn.Module):
    """A row before each sample's own: the operator that reads the batch reads no tensor."""

    def __init__(self):
        super().__init__()
        self.before, self.after, self.prefix = nn.Linear(8, 8), nn.Linear(16, 8), nn.Parameter(torch.randn(1, 8))

    def forward(self, x):
        return self.after(torch.cat([self.prefix.expand(x.shape[0], -1), self.before(x)], 1))


class Places(nn.Module):
    """Encodings of an image's places, which only the number of samples decides: XCiT, EdgeNeXt, DETR."""

    def __init__(self):
        super().__init__()
        self.before, self.places, self.after = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        mask = ~torch.zeros(x.shape[:2]).bool()
        places = mask.cumsum(1, dtype=torch.float32)[..., None] / torch.arange(1, 5)
        return self.after(self.before(x) + self.places(torch.cat([places.sin(), places.cos()], -1)))


class Counted(nn.Module):
    """Numbers that differ from sample to sample."""

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(8, 8)

    def forward(self, x):
        return self.before(x) * torch.arange(len(x)).sin()[:, None]


CASES = {
    "places": (Places, (5, 8)),
    "function between dense layers": (LookedUp, (3, 8, 8)),
    "windows": (Windows, (4, 4, 8)),
    "heads": (Attention, (5, 8)),
    "encoder": (Encoder, (5, 8)),
    "behind": (Behind, (5, 8)),
    "token": (Token, (5, 8)),
    "prefix": (Prefix, (8,)),
}


def exported(name, target, path):
    """Prepare for batches of two, calibrate, export; verified on batches of four and of one."""
    made, shape = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    prepared = qat.calibrate(qat.prepare(made().eval(), x[:2], target=target), [x])
    return qat.export(prepared, path, verify=[x, x[:1]])


@pytest.mark.parametrize("name", CASES)
def test_folded_batch_is_exported_to_onnx(name, tmp_path):
    artifact = exported(name, "onnxruntime", tmp_path / "m.onnx")
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


def test_what_is_the_same_for_each_sample_is_a_constant():
    plans = [qat.plan(made().eval(), torch.randn(2, *shape)) for made, shape in ((Places, (5, 8)), (Counted, (8,)))]
    targets = [[p.op.attrs.get("target") for p in plan.ops if p.op.kind == "float"] for plan in plans]
    assert targets[0] == ["aten.expand.default"] and "aten.sin.default" in targets[1]


def test_sizes_of_windows_are_multiples_of_the_batch():
    specs = trace(Windows().eval(), (torch.randn(2, 4, 4, 8),)).graph.tensors
    assert (specs["x"].shape, specs["x"].example) == ((None, 4, 4, 8), ())
    assert (specs["linear"].shape, specs["linear"].example) == ((None, 4, 24), (4 * graph.EXAMPLE_BATCH, 4, 24))


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("name", ["windows", "heads", "encoder", "behind"])
def test_moves_of_a_folded_batch_are_of_integers(name, target):
    made, shape = CASES[name]
    assert not qat.plan(made().eval(), torch.randn(2, *shape), target=target).floats()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["windows", "heads", "encoder", "behind", "prefix"])
def test_folded_batch_is_exported_to_tflite(name, tmp_path):
    pytest.importorskip("tensorflow")
    artifact = exported(name, "litert", tmp_path / "m.tflite")
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference

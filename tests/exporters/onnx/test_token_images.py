"""Tokens and images turn into each other without a transpose beside those that ONNX Runtime's convolutions take away."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qat
from qat.runtimes import open_session


class Patches(nn.Module):
    """A ViT's first layer: an image becomes tokens."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.conv(x).flatten(2).transpose(1, 2))


class Depthwise(nn.Module):
    """A convolution among tokens: SegFormer, PVT, CvT."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.out = nn.Linear(6, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 5)

    def forward(self, x):
        y = self.first(x).transpose(1, 2).reshape(-1, 8, 3, 4)
        return self.out(self.conv(y).flatten(2).transpose(1, 2))


class ReadTwice(Depthwise):
    """The turned tokens are read by two reshapes, and the flattened image by another operator than a transpose too."""

    def forward(self, x):
        tokens = self.first(x).transpose(1, 2)
        flat = (self.conv(tokens.reshape(-1, 8, 3, 4)) + self.conv(tokens.reshape(-1, 8, 3, 4)).relu()).flatten(2)
        return self.out(flat.transpose(1, 2)), flat


class Sequence(nn.Module):
    """A convolution along a sequence, which is an image of one row."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.out = nn.Linear(6, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.conv(self.first(x).transpose(1, 2)).transpose(1, 2))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv3d(2, 8, 2, 2), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.conv(x).flatten(2).transpose(1, 2))


class Folded(nn.Module):
    """An image becomes places in patches and an image again: MobileViTv2."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.conv = nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 5, 3)

    def forward(self, x):
        y = self.first(x).reshape(-1, 8, 3, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 8, 4, 12)
        y = self.norm(y + self.conv(y)).reshape(-1, 8, 2, 2, 3, 4).permute(0, 1, 4, 2, 5, 3)
        return self.last(y.reshape(-1, 8, 6, 8))


class Apart(nn.Module):
    """The same steps on what no convolution is next to."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(12, 5)

    def forward(self, x):
        return self.last(self.first(x).reshape(-1, 3, 3, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 3, 4, 12))


#: The model, its input, and the transposes that are left: of images that come from outside.
CASES = {
    "patches": (Patches, (4, 3, 12, 8), 1),
    "among tokens": (Depthwise, (4, 12, 6), 0),
    "read twice": (ReadTwice, (4, 12, 6), 2),
    "sequence": (Sequence, (4, 7, 6), 0),
    "folded": (Folded, (4, 3, 6, 8), 4),
    "apart": (Apart, (4, 3, 6, 8), 1),
    "volume": (Volume, (4, 2, 6, 4, 8), None),
}


@pytest.mark.parametrize("name", CASES)
def test_no_transpose_is_left_between_tokens_and_convolutions(name, tmp_path):
    build, shape, transposes = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(*shape)
    prepared = qat.calibrate(qat.prepare(build(), x, target="onnxruntime"), [x])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[np.random.default_rng(1).normal(size=shape).astype(np.float32)])
    assert artifact.parity.exact == 1.0
    assert transposes is None or open_session(artifact.path).ops()["Transpose"] == transposes


def test_free_sizes_stay_free(tmp_path):
    x = torch.randn(4, 3, 12, 8)
    prepared = qat.calibrate(qat.prepare(Patches(), x, target="onnxruntime", dynamic=["height"]), [x])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[np.zeros((2, 3, 20, 8), np.float32)])
    assert artifact.parity.exact == 1.0


def test_tensorrt_gets_the_model_as_it_is(tmp_path):
    x = torch.randn(4, 3, 12, 8)
    prepared = qat.calibrate(qat.prepare(Patches(), x, target="tensorrt"), [x])
    graph = onnx.load(qat.export(prepared, tmp_path / "m.onnx").path).graph
    kinds = [node.op_type for node in graph.node if node.op_type in ("Reshape", "Transpose")]
    assert kinds[:2] == ["Reshape", "Transpose"]

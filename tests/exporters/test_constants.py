"""Operators that read constants and parameters alone, in both formats: they are computed once, and the artifact is exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qat

TARGETS = {"onnx": "onnxruntime", "tflite": "litert"}


class Normalized(nn.Module):
    """The mean and the deviation of the data in buffers; the mean is negated and both get their axes in the call."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.register_buffer("deviation", torch.full((3,), 0.2))

    def forward(self, x):
        return self.conv((x + (-self.mean)[None, :, None, None]) / self.deviation.unsqueeze(-1).unsqueeze(-1))


class Directions(nn.Module):
    """A dense layer whose rows have the length one, and places that a function of constants gives."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 12, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        y = F.linear(x.flatten(1), F.normalize(self.weight))
        return y + torch.linspace(0, 1, 5).sin()


class Causal(nn.Module):
    """Attention whose mask is computed from ``arange`` alone, without an input of the graph among its operators."""

    def __init__(self):
        super().__init__()
        self.table, self.read, self.out = nn.Embedding(40, 16), nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, ids):
        q, k, v = self.read(self.table(ids)).chunk(3, -1)
        places = torch.arange(ids.shape[1])
        mask = torch.where(places[:, None] >= places, 0.0, -1e9)
        return self.out((q @ k.transpose(1, 2) / 4 + mask).softmax(-1) @ v)


class Unsafe(nn.Module):
    """A permuted copy that a reshape reads: PyTorch captures it as ``clone`` and ``_unsafe_view``, as in torchvision's Swin."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(16, 4)

    def forward(self, x):
        y = self.first(x.permute(0, 2, 3, 1))
        n, h, w, c = y.shape
        return self.second(y.view(n, h // 2, 2, w, c).permute(0, 1, 3, 2, 4).contiguous().reshape(n * (h // 2), w, 2 * c)).view(
            n, h // 2, w, 4
        )


IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CASES = {
    "normalized": (Normalized, IMAGES), "directions": (Directions, IMAGES[:, :, :2, :2].contiguous()),
    "causal": (Causal, torch.randint(0, 40, (4, 8), generator=torch.Generator().manual_seed(0))), "unsafe": (Unsafe, IMAGES),
}  # fmt: skip


@pytest.mark.parametrize("fmt", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_what_constants_give_is_computed_once(name, fmt, tmp_path):
    build, x = CASES[name]
    torch.manual_seed(0)
    prepared = qat.calibrate(qat.prepare(build().eval(), x[:2], target=TARGETS[fmt]), [x])
    assert qat.export(prepared, tmp_path / f"m.{fmt}", verify=[x]).parity.exact == 1.0

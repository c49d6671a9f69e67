"""A detector as Ultralytics builds them: blocks that split and join, and a head that training and evaluation read differently."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.planning.recipe import Recipe, Rule

SIZE, CLASSES, BINS = 32, 3, 4


def conv(inputs, outputs, kernel=1, stride=1):
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    return nn.Sequential(*layers)


class C2f(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.first, self.last = conv(channels, channels), conv(3 * half, channels)
        self.blocks = nn.ModuleList([nn.Sequential(conv(half, half, 3), conv(half, half, 3))])

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(parts[-1] + block(parts[-1]) for block in self.blocks)
        return self.last(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.last, self.pool = conv(channels, channels // 2), conv(2 * channels, channels), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.first(x)]
        parts.extend(self.pool(parts[-1]) for _ in range(3))
        return self.last(torch.cat(parts, 1))


class Head(nn.Module):
    """Returns raw values in training, and decoded boxes beside them in evaluation; it keeps the anchors of the last size."""

    shape = None

    def __init__(self, channels, strides):
        super().__init__()
        self.strides_of_levels, self.bins = strides, nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.bins.weight.data[:] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
        self.boxes, self.scores = (nn.ModuleList(nn.Conv2d(c, out, 1) for c in channels) for out in (4 * BINS, CLASSES))

    def forward(self, x):
        batch = x[0].shape[0]
        boxes = torch.cat([layer(y).view(batch, 4 * BINS, -1) for layer, y in zip(self.boxes, x, strict=True)], -1)
        scores = torch.cat([layer(y).view(batch, CLASSES, -1) for layer, y in zip(self.scores, x, strict=True)], -1)
        raw = {"boxes": boxes, "scores": scores, "feats": x}
        if self.training:
            return raw
        if self.shape != x[0].shape:
            self.shape, (self.anchors, self.strides) = x[0].shape, self.grid(x)
        sides = self.bins(boxes.view(batch, 4, BINS, -1).transpose(2, 1).softmax(1)).view(batch, 4, -1)
        low, high = sides.chunk(2, 1)
        low, high = self.anchors.unsqueeze(0) - low, self.anchors.unsqueeze(0) + high
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * self.strides, scores.sigmoid()], 1), raw

    def grid(self, x):
        points, strides = [], []
        for y, stride in zip(x, self.strides_of_levels, strict=True):
            rows, columns = (torch.arange(size).type_as(y) + 0.5 for size in y.shape[2:])
            down, across = torch.meshgrid(rows, columns, indexing="ij")
            points.append(torch.stack([across, down], -1).view(-1, 2))
            strides.append(y.new_full((y.shape[2] * y.shape[3], 1), stride))
        return torch.cat(points).transpose(0, 1), torch.cat(strides).transpose(0, 1)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 16, 3, 2), C2f(16))
        self.deep = nn.Sequential(conv(16, 32, 3, 2), SPPF(32))
        self.up, self.fused = nn.Upsample(scale_factor=2, mode="nearest"), conv(48, 16)
        self.head = Head((16, 32), (4, 8))

    def forward(self, x):
        shallow = self.stem(x)
        deep = self.deep(shallow)
        return self.head([self.fused(torch.cat([self.up(deep), shallow], 1)), deep])


def loss(outputs, labels):
    raw = outputs[1] if isinstance(outputs, tuple) else outputs
    picked = raw["scores"][labels["batch_idx"].long()]
    return F.cross_entropy(picked.amax(-1), labels["cls"].long()) + 0.01 * raw["boxes"].square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [pytest.param("onnx", marks=pytest.mark.ci), "tflite"])
def test_is_trained_by_its_raw_values_and_exported_with_its_boxes(suffix, tmp_path):
    torch.manual_seed(0)
    images = torch.rand(8, 3, SIZE, SIZE)
    labels = {"batch_idx": torch.tensor([0.0, 1, 1, 3, 6]), "cls": torch.tensor([0.0, 2, 1, 1, 2])}  # not one a picture
    model = Detector().eval()
    with torch.no_grad():
        expected = model(images)[0]  # the head now has anchors of a batch of 8
    recipe = Recipe(name="detector", rules=(Rule(), Rule(scope=r"^head(\.bins)?$", mode="float")))
    prepared = qat.prepare(model, images, recipe, target="onnxruntime" if suffix == "onnx" else "litert").eval()
    torch.testing.assert_close(prepared(images[:3])[0], expected[:3], rtol=1e-4, atol=1e-4)
    assert not [p.op.label for p in prepared.plan.ops if "type_as" in p.op.label or "new_full" in p.op.label]
    qat.calibrate(prepared, [images])
    history = qat.finetune(prepared, [(images, labels)], loss=loss, steps=6, learning_rate=1e-3)
    assert history.epochs[-1].loss < history.epochs[0].loss
    path = tmp_path / f"detector.{suffix}"
    boxes = qat.export(prepared, path, verify=[images[:3]], layout="NCHW", outputs=["output_0"])
    assert boxes.parity.max_lsb < 0.01
    raw = qat.export(prepared, tmp_path / f"raw.{suffix}", verify=[images[:3]], layout="NCHW", outputs=["1_boxes", "1_scores"])
    assert raw.parity.exact == 1.0

"""Dense prediction in PyTorch: U-Net (Ronneberger et al. 2015) and a detector with a multi-scale head (in the manner of SSD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs), conv(outputs, outputs))


class UNet(nn.Module):
    """Four levels, transposed convolutions, skips by concatenation: images to a map of class scores."""

    def __init__(self, width: int = 16, classes: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList([double(i, o) for i, o in zip([3, *widths], widths, strict=False)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1]])
        self.merge = nn.ModuleList([double(2 * w, w) for w in widths[-2::-1]])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Detector(nn.Module):
    """A backbone of five strides and, at the last three, a head of classes and boxes; the outputs are a dict of both lists."""

    def __init__(self, width: int = 16, anchors: int = 3, classes: int = 5) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(5)]
        stages = [nn.Sequential(conv(i, o, 2), conv(o, o)) for i, o in zip([3, *widths], widths, strict=False)]
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv2d(w, 64, 1) for w in widths[2:]])
        self.smooth = nn.ModuleList([conv(64, 64) for _ in range(3)])
        self.classes = nn.ModuleList([nn.Conv2d(64, anchors * classes, 3, padding=1) for _ in range(3)])
        self.boxes = nn.ModuleList([nn.Conv2d(64, anchors * 4, 3, padding=1) for _ in range(3)])
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.per_box = classes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        features = [lateral(level) for lateral, level in zip(self.lateral, levels[2:], strict=True)]
        for i in (1, 0):
            features[i] = features[i] + self.upsample(features[i + 1])
        features = [smooth(f) for smooth, f in zip(self.smooth, features, strict=True)]
        classes = [head(f).permute(0, 2, 3, 1).flatten(1) for head, f in zip(self.classes, features, strict=True)]
        boxes = [head(f).permute(0, 2, 3, 1).flatten(1) for head, f in zip(self.boxes, features, strict=True)]
        scores = torch.cat(classes, 1)
        return {
            "scores": scores.reshape(len(scores), -1, self.per_box).sigmoid(),
            "boxes": torch.cat(boxes, 1).reshape(len(scores), -1, 4),
        }

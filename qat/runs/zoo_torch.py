"""Example models in PyTorch: MobileNetV2 and SSDLite (Sandler et al. 2018) in a few sizes, ResNet-18 (He et al. 2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qat.trainers.detection_grid import LOGITS, OFFSETS

#: (expansion, channels, repeats, stride) of each stage.
Stages = tuple[tuple[int, int, int, int], ...]
TINY: Stages = ((1, 16, 1, 1), (4, 24, 2, 2))
SMALL: Stages = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 3, 2), (4, 64, 2, 1))
FULL: Stages = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if activation else []))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; add the input where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_block(inputs, hidden, 1)] if expansion != 1 else []
        self.layers = nn.Sequential(
            *expand, _block(hidden, hidden, 3, stride, hidden), _block(hidden, outputs, 1, activation=False)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 of given stages; images [batch, channels, height, width] to logits."""

    def __init__(self, stages: Stages, channels: int, classes: int, stem: int, stem_stride: int, head: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_block(channels, stem, 3, stem_stride)]
        width = stem
        for expansion, outputs, repeats, stride in stages:
            for index in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expansion))
                width = outputs
        layers.append(_block(width, head, 1))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def mobilenet_tiny(channels: int = 1, classes: int = 10) -> MobileNetV2:
    """For 8x8 images: the digits."""
    return MobileNetV2(TINY, channels, classes, stem=16, stem_stride=1, head=64)


def mobilenet_small(channels: int = 1, classes: int = 10) -> MobileNetV2:
    """For 28x28 images: Fashion-MNIST; 25 convolutions, 5 residual additions."""
    return MobileNetV2(SMALL, channels, classes, stem=16, stem_stride=1, head=256)


def mobilenet_v2(channels: int = 3, classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 1.0."""
    return MobileNetV2(FULL, channels, classes, stem=32, stem_stride=2, head=1280)


#: The stages of a detector's body up to a map of stride 8, and from there to one of stride 16.
FINE: Stages = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 48, 3, 2))
COARSE: Stages = ((4, 96, 2, 2),)
#: The share of the cells that an untrained detector takes for objects (Lin et al. 2017, "Focal Loss", section 4.1).
PRIOR = 0.01


def _stages(width: int, stages: Stages) -> nn.Sequential:
    layers: list[nn.Module] = []
    for expansion, outputs, repeats, stride in stages:
        for index in range(repeats):
            layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expansion))
            width = outputs
    return nn.Sequential(*layers)


class Head(nn.Module):
    """Numbers for each cell of a map, by a depthwise and a pointwise convolution: ``[batch, cells, outputs]``."""

    def __init__(self, width: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.outputs = outputs
        self.depthwise = _block(width, width, 3, groups=width)
        self.pointwise = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(self.pointwise.weight, std=0.01)
        nn.init.constant_(self.pointwise.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the numbers of the cells, row by row."""
        return self.pointwise(self.depthwise(x)).flatten(2).transpose(1, 2)


class SSDLite(nn.Module):
    """A one-stage detector without anchors: images [batch, channels, height, width] to offsets and logits for each cell.

    A MobileNetV2 body gives maps of strides 8 and 16, and each map has a head for boxes and one for classes.
    :mod:`qat.trainers.detection_grid` says what the numbers mean, and makes boxes of them.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _block(channels, 16, 3, 2)
        self.fine, self.coarse = _stages(16, FINE), _stages(48, COARSE)
        self.box_offsets = nn.ModuleList([Head(48, 4), Head(96, 4)])
        self.class_logits = nn.ModuleList([Head(width, classes, -math.log(1 / PRIOR - 1)) for width in (48, 96)])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return raw offsets and logits."""
        fine = self.fine(self.stem(image))
        maps = fine, self.coarse(fine)
        heads = {OFFSETS: self.box_offsets, LOGITS: self.class_logits}
        return {name: torch.cat([head(x) for head, x in zip(each, maps, strict=True)], 1) for name, each in heads.items()}


def ssdlite(channels: int = 1, classes: int = 10) -> SSDLite:
    """A detector, for 64x64 images by default: scenes of digits."""
    return SSDLite(channels, classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()  # of their own: other toolkits quantize a module by its one use
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


def resnet18(channels: int = 3, classes: int = 1000) -> nn.Sequential:
    """ResNet-18."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    width = 64
    for outputs, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(BasicBlock(width, outputs, stride))
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))

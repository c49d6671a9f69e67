"""Convolution nets in PyTorch: ResNet-50, RegNetY-400MF (Radosavovic et al. 2020), DenseNet-121, ShuffleNetV2, M5 for audio."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.torch_mobile import SqueezeExcite, conv

R = nn.ReLU


class Bottleneck(nn.Module):
    """Of ResNet and RegNet: 1x1, 3x3 (grouped, squeezed in RegNet), 1x1, and a shortcut."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int = 1, squeezed: int = 0) -> None:
        super().__init__()
        se = [SqueezeExcite(width, squeezed, R, nn.Sigmoid)] if squeezed else []
        self.layers = nn.Sequential(
            conv(inputs, width, 1, 1, R), conv(width, width, 3, stride, R, groups), *se, conv(width, outputs, 1, 1, None)
        )
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else conv(inputs, outputs, 1, stride, None)
        self.relu = R()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.layers(x) + self.shortcut(x))


def _head(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def resnet50(classes: int = 10, repeats: tuple[int, ...] = (3, 4, 6, 3)) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, 64, 7, 2, R), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in zip((64, 128, 256, 512), repeats, (1, 2, 2, 2), strict=True):
        for index in range(blocks):
            layers.append(Bottleneck(inputs, width, 4 * width, stride if index == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, *_head(2048, classes))


def regnet_y_400mf(classes: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, 32, 3, 2, R)]
    inputs = 32
    for width, repeats in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for index in range(repeats):
            layers.append(Bottleneck(inputs, width, width, 2 if index == 0 else 1, width // 8, round(inputs / 4)))
            inputs = width
    return nn.Sequential(*layers, *_head(440, classes))


class DenseLayer(nn.Module):
    """BatchNorm and ReLU come before the convolutions; the result is appended to the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = R()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.relu(self.norm2(self.conv1(self.relu(self.norm1(x))))))], 1)


def densenet121(classes: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, 64, 7, 2, R), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, repeats in enumerate((6, 12, 24, 16)):
        if stage:
            layers += [nn.BatchNorm2d(width), R(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            width //= 2
        for _ in range(repeats):
            layers.append(DenseLayer(width, 32))
            width += 32
    return nn.Sequential(*layers, nn.BatchNorm2d(width), R(), *_head(width, classes))


class Shuffle(nn.Module):
    """ShuffleNetV2's unit (Ma et al. 2018): half the channels pass, or both halves are filtered at stride 2; then a shuffle."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.split = outputs // 2, stride == 1
        self.passing: nn.Module = nn.Identity()
        if not self.split:
            self.passing = nn.Sequential(conv(inputs, inputs, 3, 2, None, inputs), conv(inputs, half, 1, 1, R))
        entering = half if self.split else inputs
        self.filtered = nn.Sequential(
            conv(entering, half, 1, 1, R), conv(half, half, 3, stride, None, half), conv(half, half, 1, 1, R)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        y = torch.cat([self.passing(left), self.filtered(right)], 1)
        batch, channels, height, width = y.shape
        return y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def shufflenet_v2(classes: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, 24, 3, 2, R), nn.MaxPool2d(3, 2, 1)]
    width = 24
    for outputs, repeats in ((116, 4), (232, 8), (464, 4)):
        for index in range(repeats):
            layers.append(Shuffle(width, outputs, 2 if index == 0 else 1))
            width = outputs
    return nn.Sequential(*layers, conv(width, 1024, 1, 1, R), *_head(1024, classes))


def audio(classes: int = 10) -> nn.Sequential:
    """M5 (Dai et al. 2017): one-dimensional convolutions on the waveform."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in ((1, 64, 79, 4), (64, 64, 3, 1), (64, 128, 3, 1), (128, 256, 3, 1)):
        layers += [nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm1d(outputs), R(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(256, classes))

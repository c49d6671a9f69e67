"""Swin-tiny (Liu et al. 2021) in PyTorch: attention in windows, shifted in every second layer, with relative positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.torch_transformers import Mlp


class WindowAttention(nn.Module):
    """Attention in windows of ``window`` by ``window`` of an NHWC tensor of ``size`` by ``size``, shifted by ``shift``."""

    def __init__(self, width: int, heads: int, size: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.size, self.window, self.shift = heads, size, window, shift
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        rows, columns = (a.flatten() for a in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
        relative = (rows[:, None] - rows + window - 1) * (2 * window - 1) + columns[:, None] - columns + window - 1
        self.register_buffer("relative", relative)
        self.register_buffer("mask", self._mask())

    def _mask(self) -> Tensor:
        """Return what keeps tokens apart that the shift made neighbours: [windows, 1, tokens, tokens]."""
        place = torch.arange(self.size)
        region = (place >= self.size - self.window).long() + (place >= self.size - self.shift).long() if self.shift else place * 0
        regions = self._windows((3 * region[:, None] + region)[None, :, :, None]).squeeze(-1)
        return torch.where(regions[:, None, :, None] == regions[:, None, None, :], 0.0, -100.0)

    def _windows(self, x: Tensor) -> Tensor:
        n, w = self.size // self.window, self.window
        return x.reshape(-1, n, w, n, w, x.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, x.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        batch, size, _, width = x.shape
        n, tokens = size // self.window, self.window**2
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        q, k, v = self.qkv(self._windows(x)).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.bias[self.relative.flatten()].reshape(tokens, tokens, self.heads).permute(2, 0, 1)
        if self.shift:
            scores = (scores.reshape(batch, n * n, self.heads, tokens, tokens) + self.mask).flatten(0, 1)
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, tokens, width))
        y = y.reshape(batch, n, n, self.window, self.window, width).permute(0, 1, 3, 2, 4, 5).reshape(batch, size, size, width)
        return torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, size: int, window: int, shifted: bool) -> None:
        super().__init__()
        window = min(window, size)
        shift = window // 2 if shifted and size > window else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = WindowAttention(width, heads, size, window, shift), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Each two by two neighbours become one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduce(self.norm(torch.cat(corners, -1)))


class SwinTiny(nn.Module):
    def __init__(self, size: int = 64, window: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patches, self.start = nn.Conv2d(3, 96, 4, 4), nn.LayerNorm(96)
        layers: list[nn.Module] = []
        for stage, depth in enumerate((2, 2, 6, 2)):
            width, side = 96 * 2**stage, size // 4 // 2**stage
            layers += [Merging(width // 2)] if stage else []
            layers += [SwinBlock(width, 3 * 2**stage, side, window, i % 2 == 1) for i in range(depth)]
        self.layers, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(768), nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.start(self.patches(x).permute(0, 2, 3, 1)))
        return self.head(self.norm(x).mean((1, 2)))

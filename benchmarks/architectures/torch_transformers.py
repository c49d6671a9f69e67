"""Transformers in PyTorch: ViT-tiny (Dosovitskiy et al. 2021) and BERT (Devlin et al. 2019); ConvNeXt-tiny beside them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Multi-head self-attention, by PyTorch's scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width))


class Encoder(nn.Module):
    """One layer; the norms come before (ViT) or after (BERT) each part."""

    def __init__(self, width: int, heads: int, before: bool) -> None:
        super().__init__()
        self.attention, self.mlp, self.before = Attention(width, heads), Mlp(width, 4 * width), before
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class ViT(nn.Module):
    def __init__(
        self,
        size: int = 64,
        patch: int = 16,
        width: int = 192,
        depth: int = 12,
        classes: int = 10,
        channels: int = 3,
        heads: int = 3,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.layers = nn.Sequential(*(Encoder(width, heads, before=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.layers(x))[:, 0])


class Bert(nn.Module):
    """Token ids [batch, length] to class scores; four layers of BERT's own width 256 variant (BERT-mini, Turc et al. 2019)."""

    def __init__(self, vocabulary: int = 1000, length: int = 32, width: int = 256, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.layers = nn.Sequential(*(Encoder(width, 4, before=False) for _ in range(depth)))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layers(self.norm(self.words(ids) + self.positions))
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class Norm2d(nn.LayerNorm):
    """LayerNorm over the channels of an NCHW tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, 1e-6)
        self.mlp, self.scale = Mlp(width, 4 * width), nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))) * self.scale
        return x + y.permute(0, 3, 1, 2)


def convnext_tiny(classes: int = 10) -> nn.Sequential:
    """ConvNeXt-tiny (Liu et al. 2022)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), Norm2d(96, 1e-6)]
    for stage, depth in enumerate((3, 3, 9, 3)):
        width = 96 * 2**stage
        if stage:
            layers += [Norm2d(width // 2, 1e-6), nn.Conv2d(width // 2, width, 2, 2)]
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), Norm2d(768, 1e-6), nn.Flatten(), nn.Linear(768, classes))

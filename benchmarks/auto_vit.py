"""A small ViT for 8x8 digits whose residual stream lies far from zero: LayerNorm takes no notice of it, 8 bits do.

    qat auto benchmarks/auto_vit.yaml

trains it, and ends where the residual stream stays float.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parent))  # a run finds this module by its configuration alone
from architectures.torch_transformers import ViT


def lifted_vit(by: float = 300.0) -> nn.Module:
    """Return the ViT; ``by`` is added to every channel of the stream where it starts."""
    model = ViT(size=8, patch=2, width=48, depth=2)
    model.patches = nn.Conv2d(1, 48, 2, 2)
    with torch.no_grad():
        model.position += by
    return model

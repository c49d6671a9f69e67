"""Two operators that PyPI's torchvision, which is built for CUDA, looks for in vain beside a CPU build of torch."""

from __future__ import annotations

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Declare them, so that ``import torchvision`` and the packages that import it (timm, transformers) do not fail."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""The models of pytorchcv, by the names that it registers."""

from __future__ import annotations

import torch
from architectures import Architecture, Input
from architectures.torchvision_operators import declare_operators
from torch import nn

from .images import least_size


def names() -> list[str]:
    """Return all names that pytorchcv registers."""
    declare_operators()
    from pytorchcv.model_provider import _models

    return sorted(_models)


def net(name: str) -> nn.Module:
    """Return a model with random weights."""
    declare_operators()
    from pytorchcv.model_provider import get_model

    torch.manual_seed(0)
    model: nn.Module = get_model(name, pretrained=False)
    return model


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image that it takes: three channels, or one."""
    grey = "mnist" in name
    size = least_size(lambda side: net(name), (64, 96, 128, 224, 299, 32, 28), 1 if grey else 3)
    inputs = (Input("image", 1 if grey else 3, size),)
    return Architecture(f"pytorchcv {name}", "torch", format, "catalogues.pytorchcv_nets", "net", {"name": name}, inputs, False)

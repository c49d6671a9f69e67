"""The models of timm, by the names that it registers."""

from __future__ import annotations

from architectures import Architecture, Input
from architectures.public import timm as build
from architectures.torchvision_operators import declare_operators

from .images import least_size


def names() -> list[str]:
    """Return all names that timm registers."""
    declare_operators()
    import timm

    return list(timm.list_models())


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image of 64, 96, 128 and its own size that it takes."""
    declare_operators()
    from timm.models import get_pretrained_cfg

    own = get_pretrained_cfg(name)
    channels, height = own.input_size[:2] if own else (3, 224)
    size = least_size(lambda side: build(name, side), (64, 96, 128, height), channels)
    arguments = {"name": name, "size": size}
    inputs = (Input("image", channels, size),)
    return Architecture(f"timm {name}", "torch", format, "architectures.public", "timm", arguments, inputs, scores=False)

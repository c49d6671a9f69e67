"""The models of segmentation-models-pytorch: each decoder with each encoder."""

from __future__ import annotations

from architectures import Architecture, Input
from architectures.public import segmentation as build
from architectures.torchvision_operators import declare_operators

from .images import least_size


def names() -> list[str]:
    """Return ``decoder/encoder`` for all that the package registers."""
    declare_operators()
    import segmentation_models_pytorch

    decoders = sorted(model.__name__ for model in segmentation_models_pytorch.MODEL_ARCHITECTURES_MAPPING.values())
    return [f"{decoder}/{encoder}" for decoder in decoders for encoder in sorted(segmentation_models_pytorch.encoders.encoders)]


def architecture(name: str, format: str) -> Architecture:
    """Return a model for three classes on the least image that it takes."""
    decoder, encoder = name.split("/")
    size = least_size(lambda side: build(decoder, encoder), (64, 96, 128, 224))
    arguments = {"name": decoder, "encoder": encoder}
    inputs = (Input("image", 3, size),)
    return Architecture(f"smp {name}", "torch", format, "architectures.public", "segmentation", arguments, inputs, scores=False)

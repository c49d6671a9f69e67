"""The models of torchvision: classification, segmentation, video.

Its detectors are left out, since the number of boxes depends on the data; optical flow, since it takes pairs of large images; its
quantized models, since they are no float models.
"""

from __future__ import annotations

import inspect
from typing import Any

from architectures import Architecture, Input
from architectures.public import torchvision as build
from architectures.torchvision_operators import declare_operators

from .images import least_size

FRAMES = 8  # of a clip


def names() -> list[str]:
    """Return the names that torchvision registers for images and clips."""
    declare_operators()
    from torchvision import models

    return [name for module in (models, models.segmentation, models.video) for name in models.list_models(module=module)]


def architecture(name: str, format: str) -> Architecture:
    """Return a model on the least image, or clip of 8 frames, that it takes."""
    declare_operators()
    from torchvision import models

    clip = name in models.list_models(module=models.video)
    builder = inspect.getsource(models.get_model_builder(name))
    options: dict[str, Any] = {"weights_backbone": None} if name in models.list_models(module=models.segmentation) else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}

    def sized(side: int) -> dict[str, Any]:
        return {**options, "image_size": side} if "image_size" in builder else options

    size = least_size(lambda side: build(name, **sized(side)), (64, 96, 128, 224, 299), frames=FRAMES if clip else 0)
    arguments = {"name": name, **sized(size)}
    inputs = (Input("clip", FRAMES, size) if clip else Input("image", 3, size),)
    return Architecture(f"torchvision {name}", "torch", format, "architectures.public", "torchvision", arguments, inputs, False)

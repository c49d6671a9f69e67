"""Models of public packages, with random weights: timm, torchvision, segmentation-models-pytorch and Ultralytics.

pip install --no-deps -r benchmarks/coverage.txt
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .torchvision_operators import declare_operators


def timm(name: str, size: int = 64) -> nn.Module:
    """Return a model of timm for 10 classes; ``size`` goes to those that ask for the size of the image."""
    declare_operators()
    import timm

    torch.manual_seed(0)
    try:
        return timm.create_model(name, num_classes=10, img_size=size)
    except TypeError:
        return timm.create_model(name, num_classes=10)


def torchvision(name: str, **options: Any) -> nn.Module:
    """Return a classifier of torchvision for 10 classes."""
    declare_operators()
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


def segmentation(name: str, encoder: str = "resnet18") -> nn.Module:
    """Return a segmentation model for 3 classes."""
    declare_operators()
    import segmentation_models_pytorch

    torch.manual_seed(0)
    return getattr(segmentation_models_pytorch, name)(encoder, encoder_weights=None, classes=3)


def yolo(name: str) -> nn.Module:
    """Return a model of Ultralytics: its scores and boxes of an image, as in evaluation."""
    declare_operators()
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel, SegmentationModel

    torch.manual_seed(0)
    kind = SegmentationModel if "-seg" in name else ClassificationModel if "-cls" in name else DetectionModel
    return kind(f"{name}.yaml", verbose=False)

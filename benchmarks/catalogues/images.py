"""What the catalogues of PyTorch share: the least image that a model takes, found on tensors without memory where that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from . import PARAMETERS, Unsuitable


def least_size(build: Callable[[int], nn.Module], sizes: Iterable[int], channels: int = 3, frames: int = 0) -> int:
    """Return the first size that a model built for it takes.

    Args:
        build: gives the model for images of a size.
        sizes: the sides of the images to try, in pixels, in order.
        channels: the channels of the image.
        frames: the frames of a clip, which comes as ``[batch, channels, frames, height, width]``; 0 for an image.

    Raises:
        Unsuitable: none of the sizes does, or the model has too many parameters.
    """
    why = "no size was given"
    for size in sizes:
        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    model = build(size).eval()
                    if sum(p.numel() for p in model.parameters()) > PARAMETERS:
                        raise Unsuitable(f"more than {PARAMETERS} parameters")
                    with torch.no_grad():
                        model(torch.zeros(2, channels, *((frames,) if frames else ()), size, size))
            except Unsuitable:
                raise
            except Exception as error:  # a package refuses a size by whatever exception its code meets
                why = f"{type(error).__name__}: {error}"
                if "meta tensor" not in why:
                    break  # it reads no value: the size is what it refuses
            else:
                return size
    raise Unsuitable(why)

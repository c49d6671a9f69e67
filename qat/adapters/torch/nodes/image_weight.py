"""The weights of signals and of channels, laid out as those of images."""

from __future__ import annotations

from torch import Tensor


def as_image_weight(weight: Tensor) -> Tensor:
    """Return the weight of a conv1d as one of images, [out, in / groups, 1, length]; any other weight as it is.

    A weight of one axis has a factor for each channel, which is a filter of 1x1.
    """
    if weight.ndim == 1:
        return weight.view(-1, 1, 1, 1)
    return weight.unsqueeze(2) if weight.ndim == 3 else weight

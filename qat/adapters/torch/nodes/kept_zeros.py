"""The node of a weight whose zeros training keeps."""

from __future__ import annotations

from torch import Tensor, nn


class KeptZeros(nn.Module):
    """Passes a weight on, and a gradient where the weight is not pruned.

    Attributes:
        name: of the weight.
        mask: false where the weight is zero, of its shape.
    """

    mask: Tensor

    def __init__(self, name: str, mask: Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight without what is pruned."""
        return weight * self.mask

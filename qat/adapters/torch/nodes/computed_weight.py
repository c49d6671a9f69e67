"""The node of a weight that is computed from parameters, which train through it."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


class ComputedWeight(nn.Module):
    """A function of parameters, which are arguments: they keep the names that they have in the user's model.

    Attributes:
        name: of the weight.
        function: computes it from its parameters, as the user's model does.
        factor: multiplies it, as a folded BatchNorm asks for; broadcasts.
        correction: is added to it: how far a method of calibration, such as AdaRound, moved it.
    """

    factor: Tensor
    correction: Tensor

    def __init__(self, name: str, graph: fx.Graph, factor: Tensor, value: Tensor) -> None:
        super().__init__()
        self.name = name
        self.function = fx.GraphModule(nn.Module(), graph)
        self.register_buffer("factor", factor)
        self.register_buffer("correction", torch.zeros_like(value))

    def forward(self, *sources: Tensor) -> Tensor:
        """Return the weight."""
        weight: Tensor = self.function(*sources) * self.factor
        return weight + self.correction

"""Dampening of oscillations: a loss draws weights of few bits to the values that they round to.

A weight near the border of two integers flips between them from step to step, and training ends at either by chance.
Source: Nagel et al. 2022, "Overcoming Oscillations in Quantization-Aware Training", section 4.1, equation 5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qat.adapters.torch.nodes.linear import Conv2d

from .prepared_model import SCOPE, PreparedModel


def few_bits(model: PreparedModel) -> Iterator[tuple[Conv2d, Tensor, Tensor | None]]:
    """Yield the nodes with a weight of fewer than 8 bits on the grid, each with its weight and its bias; a tied weight once."""
    for planned in model.plan.few_bit_weights():
        node = model.get_submodule(f"{SCOPE}.nodes.{planned.op.name}")
        weight = model.tensor(planned.op.params["weight"])
        if isinstance(node, Conv2d) and (isinstance(weight, nn.Parameter) or planned.op.params["weight"] in model.computed):
            yield node, weight, model.tensor(planned.op.params["bias"]) if "bias" in planned.op.params else None


def distance(model: PreparedModel) -> Tensor:
    """Return the squared distance of all weights of fewer than 8 bits from their grid, clipped weights at its end."""
    total = torch.zeros((), device=next(model.parameters()).device)
    for node, parameter, bias in few_bits(model):
        weight = node.program_layout(parameter)
        with torch.no_grad():
            scale = node.weight_scale(weight, bias)
            w_int, _ = node.quantized(weight, None, scale)
            laid = scale.view(-1, *[1] * (weight.ndim - 1))
        limit = node.planned.qmax * laid
        total = total + (weight.clamp(-limit, limit) - w_int * laid).square().sum()
    return total

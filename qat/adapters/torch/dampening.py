"""Dampening of oscillations: weights of few bits are drawn to the values that they round to.

A weight near the border of two integers flips between them from step to step, and the trained model is one of the accidents.
Source: Nagel et al. 2022, "Overcoming Oscillations in Quantization-Aware Training", section 4.1, equation 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat.adapters.torch.insert import SCOPE, PreparedModel
from qat.adapters.torch.linear import Conv2d
from qat.adapters.torch.rows import as_image_weight


def distance(model: PreparedModel) -> Tensor:
    """Return the squared distance of all weights of fewer than 8 bits from their grid, clipped weights at its end."""
    total = torch.zeros((), device=next(model.parameters()).device)
    for planned in model.plan.ops:
        node = model.get_submodule(f"{SCOPE}.nodes.{planned.op.name}") if planned.integer and planned.weight else None
        if not isinstance(node, Conv2d) or planned.weight is None or planned.weight.bits >= 8:
            continue
        weight = as_image_weight(model.get_parameter(planned.op.params["weight"]))
        bias = model.get_parameter(planned.op.params["bias"]) if "bias" in planned.op.params else None
        with torch.no_grad():
            scale = node.weight_scale(weight, bias)
            w_int, _ = node.quantized(weight, None, scale)
            laid = scale.view(-1, *[1] * (weight.ndim - 1))
        limit = planned.qmax * laid
        total = total + (weight.clamp(-limit, limit) - w_int * laid).square().sum()
    return total

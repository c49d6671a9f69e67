"""The extremes of a node's unrounded output, which range tracking follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def extremes(v: Tensor) -> Tensor:
    """Return the least and the greatest value, of shape (2,)."""
    return torch.stack(v.detach().aminmax())


def extra_output(ctx: Any, v: Tensor, tracked: bool) -> Tensor | None:
    """Return the extremes of ``v`` as a second output of an autograd node, or None where the range is not tracked."""
    if not tracked:
        return None
    found = extremes(v)
    ctx.mark_non_differentiable(found)
    return found

"""Operators that order values, where several are equal: the runtimes take the first of them, PyTorch any.

Float values that come from integers are often equal. Which of them stands first decides what a detector gathers by their places.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOPK, SORT = torch.ops.aten.topk.default, torch.ops.aten.sort.default


def first_of_equal_sorted(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Sort values, equal ones by their places; return them and their places."""
    values, places = torch.sort(x, dim=dim, descending=descending, stable=True)
    return values, places


def first_of_equal_topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest or smallest values in their order, equal ones by their places, and the places."""
    values, places = first_of_equal_sorted(x, dim, largest)
    return values.narrow(dim, 0, k), places.narrow(dim, 0, k)

"""Functions of PyTorch whose own way fixes the size of the batch, computed in ways that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .einsums import in_pairs


class ForAnyBatch(TorchFunctionMode):
    """Lets a model that is captured compute such functions in the ways of this module."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _WAYS.get(function, function)(*args, **(kwargs or {}))


def _along(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return what ``torch.take_along_dim`` does: a gather, or a choice of slices where it is the same everywhere."""
    if dim is None or input.ndim != indices.ndim:
        return torch.take_along_dim(input, indices, dim)
    dim %= input.ndim
    others = [(a, b) for i, (a, b) in enumerate(zip(input.shape, indices.shape, strict=True)) if i != dim]
    if all(isinstance(b, int) and b == 1 for _, b in others):
        return input.index_select(dim, indices.reshape(indices.shape[dim]))
    if all(isinstance(a, int) == isinstance(b, int) and a == b for a, b in others):
        return input.gather(dim, indices)
    return torch.take_along_dim(input, indices, dim)


_WAYS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.einsum: in_pairs,
    torch.take_along_dim: _along,
    Tensor.take_along_dim: _along,
}

"""Bags of embeddings, as ``nn.EmbeddingBag`` sums or averages them: the rows that indices choose, reduced over each bag.

PyTorch's operator reads all bags behind each other. Where each has as many indices, as of indices of two axes, it is an
embedding and a sum, a mean or a maximum, which have integer kernels and a form in either format.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .rewriter import Rewriter, given

aten = torch.ops.aten

#: PyTorch's operators for bags. Their first result is the reduced rows.
BAGS = (aten.embedding_bag.padding_idx, aten._embedding_bag_forward_only.default, aten._embedding_bag.default)
#: What an operator takes after its weight, where it is not given.
_DEFAULTS = (None, None, False, 0, False, None, False, -1)
#: The reductions, by PyTorch's number of the mode.
_REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default)


def bags_of_one_size(w: Rewriter, n: Any, source: Any) -> fx.Node | None:
    """Write the reduced rows, a part ``n`` of an operator's results, as a reduction; None where bags may differ in size."""
    weight, (flat, offsets, _, mode, _, shares, closed, padding) = source.args[0], given(source, *_DEFAULTS)
    if closed or padding not in (None, -1) or flat.target is not aten.reshape.default or not _is_every(offsets, flat.args[0]):
        return None
    rows = w.call(n, aten.embedding.default, weight, flat.args[0])
    if shares is not None:
        if shares.target is not aten.reshape.default or shares.args[0].meta["val"].shape != flat.args[0].meta["val"].shape:
            return None
        rows = w.call(n, aten.mul.Tensor, rows, w.call(n, aten.unsqueeze.default, shares.args[0], -1))
    return w.call(n, _REDUCTIONS[mode], rows, [1])


def _is_every(offsets: Any, indices: Any) -> bool:
    """Return whether bags begin at each multiple of the length of ``indices``."""
    shape = indices.meta["val"].shape
    steps: tuple[Any, ...] = offsets.args[0::2]
    return len(shape) == 2 and offsets.target is aten.arange.start_step and steps == (0, shape[1])

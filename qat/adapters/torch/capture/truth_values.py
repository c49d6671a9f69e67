"""Operators on truth values, in the forms that both formats have: PyTorch adds, compares and chooses them as it does numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .rewriter import Rewrite, Rewriter, given

aten = torch.ops.aten


def _is_truth(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta["val"], torch.Tensor) and node.meta["val"].dtype == torch.bool


def _either(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a sum, or the greater of two truth values, as whether one is true."""
    if all(map(_is_truth, n.args[:2])):
        return w.call(n, aten.logical_or.default, *n.args[:2])
    _counted(w, n)
    return None


def _both(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a product, or the lesser of two truth values, as whether both are true."""
    if all(map(_is_truth, n.args[:2])):
        return w.call(n, aten.logical_and.default, *n.args[:2])
    _counted(w, n)
    return None


def _counted(w: Rewriter, n: Any) -> None:
    """Give an operator numbers in the place of truth values: of the result's type, where that is one of numbers."""
    if not any(map(_is_truth, n.args)):
        return
    made = n.meta["val"].dtype
    dtype = torch.int32 if made == torch.bool else made
    n.args = tuple(w.call(n, aten.to.dtype, x, dtype) if _is_truth(x) else x for x in n.args)


def _extreme(function: Any) -> Rewrite:
    """Return the rule that writes a maximum over axes as whether any value is true, or a minimum as whether all are."""

    def rule(w: Rewriter, n: Any) -> fx.Node | None:
        if not _is_truth(n.args[0]):
            return None
        axes, keep = given(n, [], False)
        rank = n.args[0].meta["val"].ndim
        made = n.args[0]
        for axis in sorted((a % rank for a in axes or range(rank)), reverse=True):
            made = w.call(n, function, made, axis, keep)
        return made

    return rule


def _chosen(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a choice between truth values by what each needs to be true."""
    mask, first, second = n.args
    if not (_is_truth(first) and _is_truth(second)):
        return None
    taken = w.call(n, aten.logical_and.default, mask, first)
    left = w.call(n, aten.logical_and.default, w.call(n, aten.logical_not.default, mask), second)
    return w.call(n, aten.logical_or.default, taken, left)


def _filled(w: Rewriter, n: Any) -> fx.Node | None:
    """Write truth values some of which are replaced by one."""
    x, mask, value = n.args
    if not _is_truth(x) or isinstance(value, fx.Node):
        return None
    if value:
        return w.call(n, aten.logical_or.default, x, mask)
    return w.call(n, aten.logical_and.default, x, w.call(n, aten.logical_not.default, mask))


def _is_among(w: Rewriter, n: Any) -> fx.Node | None:
    """Write whether each number is one of some others as comparisons with all of these."""
    x, others = n.args[:2]
    if not (isinstance(x, fx.Node) and isinstance(others, fx.Node)) or x.meta["val"].ndim == 0:
        return None
    row = w.call(n, aten.reshape.default, others, [-1]) if others.meta["val"].ndim != 1 else others
    equal = w.call(n, aten.eq.Tensor, w.call(n, aten.unsqueeze.default, x, -1), row)
    found = w.call(n, aten.any.dim, equal, x.meta["val"].ndim)
    return w.call(n, aten.logical_not.default, found) if n.kwargs.get("invert") else found


def _extreme_of_all(function: Any) -> Rewrite:
    """Return the rule that does the same over all axes."""
    return lambda w, n: w.call(n, function, n.args[0]) if _is_truth(n.args[0]) else None


_COMPARISONS = ("gt", "ge", "lt", "le")

TRUTH_VALUES: dict[Any, Rewrite] = {
    aten.add.Tensor: _either,
    aten.maximum.default: _either,
    aten.mul.Tensor: _both,
    aten.minimum.default: _both,
    aten.sub.Tensor: _counted,
    aten.div.Tensor: _counted,
    **{getattr(getattr(aten, name), kind): _counted for name in _COMPARISONS for kind in ("Tensor", "Scalar")},
    aten.amax.default: _extreme(aten.any.dim),
    aten.amin.default: _extreme(aten.all.dim),
    aten.max.default: _extreme_of_all(aten.any.default),
    aten.min.default: _extreme_of_all(aten.all.default),
    aten.where.self: _chosen,
    aten.masked_fill.Scalar: _filled,
    aten.isin.Tensor_Tensor: _is_among,
}

"""Products of two activations and softmaxes: each of the ways to write them in PyTorch becomes one function.

``scaled_dot_product_attention`` becomes a product, a softmax that scales, and a product. A mask is added, or filled in, before
the softmax; :mod:`qat.adapters.torch.capture.attention_masks` keeps everything between product and softmax float there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from qat.graph.einsum import as_product

from .rewriter import Rewrite, Rewriter, given

aten = torch.ops.aten


def product(a: Tensor, b: Tensor, transpose_b: bool) -> Tensor:
    """Multiply on the last two axes; ``b`` is [..., n, k] where it is to be transposed."""
    return torch.matmul(a, b.transpose(-2, -1) if transpose_b else b)


def softmax(x: Tensor, beta: float) -> Tensor:
    """Return the softmax of ``beta * x`` over the last axis."""
    return torch.softmax(x if beta == 1 else x * beta, -1)


def _rank(node: Any) -> int:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.ndim if isinstance(value, Tensor) and value.dtype == torch.float32 else -1


def _turned(node: Any) -> fx.Node | None:
    """Return the operand of a transposition of the last two axes; None for any other node."""
    rank, target = _rank(node), node.target
    last = [rank - 2, rank - 1]
    turns = target is aten.mT.default or (target is aten.t.default and rank == 2)
    if target in (aten.transpose.int, aten.swapaxes.default):
        turns = sorted(d % rank for d in node.args[1:3]) == last
    elif target is aten.permute.default:
        turns = [d % rank for d in node.args[1]] == [*range(rank - 2), *last[::-1]]
    return node.args[0] if turns else None


def _product(w: Rewriter, n: fx.Node, a: fx.Node, b: fx.Node, transpose_b: bool = False) -> fx.Node:
    """Write a product; a transposition of its second operand becomes part of it."""
    source = _turned(b)
    b, transpose_b = (b, transpose_b) if source is None else (source, not transpose_b)
    return w.call(n, product, a, b, transpose_b)


def _matmul(w: Rewriter, n: Any) -> fx.Node | None:
    a, b = n.args
    return _product(w, n, a, b) if min(_rank(a), _rank(b)) >= 2 else None


def _added(w: Rewriter, n: Any) -> fx.Node | None:
    """Write ``beta * bias + alpha * (a @ b)`` as a product, multiplications and an addition."""
    bias, a, b = n.args[:3]
    if min(map(_rank, (bias, a, b))) < 1 or min(_rank(a), _rank(b)) < 2:
        return None
    beta, alpha = (n.kwargs.get(name, 1) for name in ("beta", "alpha"))
    y, shift = _product(w, n, a, b), bias
    if alpha != 1:
        y = w.call(n, aten.mul.Tensor, y, alpha)
    if beta != 1:
        shift = w.call(n, aten.mul.Tensor, bias, beta)
    return y if beta == 0 else w.call(n, aten.add.Tensor, y, shift)


def _linear(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a layer whose weight is computed, such as a part of a larger weight, as a product and an addition."""
    x, weight, *bias = n.args
    if weight.op == "placeholder" or _rank(weight) != 2 or _rank(x) < 2:
        return None
    y = _product(w, n, x, weight, True)
    return w.call(n, aten.add.Tensor, y, bias[0]) if bias and bias[0] is not None else y


def _attention(w: Rewriter, n: Any) -> fx.Node | None:
    q, (k, v, mask, _, causal) = n.args[0], given(n, None, None, None, 0.0, False)
    if min(map(_rank, (q, k, v))) < 3 or n.kwargs.get("enable_gqa", False):
        return None
    scale = n.kwargs.get("scale")
    scale = 1.0 / math.sqrt(q.meta["val"].shape[-1]) if scale is None else float(scale)
    scores = _product(w, n, q, k, True)
    if mask is None and not causal:
        return _product(w, n, w.call(n, softmax, scores, scale), v)
    scores = w.call(n, aten.mul.Tensor, scores, scale)
    if causal:
        ones = w.call(n, aten.full.default, scores.meta["val"].shape[-2:], True, dtype=torch.bool, pin_memory=False)
        mask = w.call(n, aten.tril.default, ones)
    if mask.meta["val"].dtype == torch.bool:
        hidden = w.call(n, aten.logical_not.default, mask)
        scores = w.call(n, aten.masked_fill.Scalar, scores, hidden, -math.inf)
    else:
        scores = w.call(n, aten.add.Tensor, scores, mask)
    return _product(w, n, w.call(n, softmax, scores, 1.0), v)


def _softmax(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a softmax; a number that scales the product before it becomes its factor.

    One over another axis is permuted, if more reads it than the model's output. What each row's greatest was taken from is read
    itself: the softmax does that.
    """
    axis = n.args[1]
    x = scores = _unshifted(n.args[0], axis)
    rank = _rank(x)
    if rank < 1 or n.meta["val"].dtype != torch.float32:
        return None
    if axis % rank != rank - 1:
        if axis % rank == 0 or all(user.op == "output" for user in n.users):
            return None
        turn = [a for a in range(rank) if a != axis % rank] + [axis % rank]
        turned = w.call(n, softmax, _permuted(w, n, x, tuple(turn)), 1.0)
        return _permuted(w, n, turned, tuple(turn.index(a) for a in range(rank)))
    beta, x = _number(x)
    if x.target is product and len(x.users) == 1:
        (left, a), (right, b) = _number(x.args[0]), _number(x.args[1])
        if left * right != 1:
            x = w.call(n, product, a, b, x.args[2])
            beta *= left * right
    elif beta != 1:  # the multiplication of any other tensor has an output with a scale of its own
        beta, x = 1.0, scores
    return w.call(n, softmax, x, beta) if beta > 0 else None


def _unshifted(x: Any, axis: int) -> Any:
    """Return the tensor from which its greatest values along an axis were taken, as GPT-OSS does; any other tensor itself."""
    if x.target is aten.add.Tensor and _rank(x):
        for kept, taken in (x.args[:2], x.args[1::-1]):
            greatest: Any = taken.args[0] if getattr(taken, "target", None) is aten.neg.default else None
            if getattr(greatest, "target", None) is aten.amax.default and greatest.args[0] is kept:
                axes, keep = given(greatest, (), False)
                if keep and [a % _rank(x) for a in axes] == [axis % _rank(x)]:
                    return kept
    return x


def _number(node: Any) -> tuple[float, Any]:
    """Return the number that a node multiplies its input by, and that input; 1 and the node itself where it has other readers."""
    if node.target is aten.mul.Tensor and len(node.users) == 1 and isinstance(node.args[1], (int, float)):
        return float(node.args[1]), node.args[0]
    return 1.0, node


def _einsum(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a sum over one index of two tensors as a product of the permuted tensors."""
    found = as_product(n.args[0])
    if found is None or min(map(_rank, n.args[1])) < 2:
        return None
    a, b = (_permuted(w, n, x, axes) for x, axes in zip(n.args[1], (found.a, found.b), strict=True))
    return _permuted(w, n, w.call(n, product, a, b, found.transposed), found.result)


def _permuted(w: Rewriter, n: fx.Node, x: fx.Node, axes: tuple[int, ...]) -> fx.Node:
    return x if axes == tuple(range(len(axes))) else w.call(n, aten.permute.default, x, list(axes))


PRODUCTS: dict[Any, Rewrite] = {
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.mm.default: _matmul,
    aten.addmm.default: _added,
    aten.baddbmm.default: _added,
    aten.linear.default: _linear,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
}

"""Products of a tensor and a parameter: each of the ways to write one in PyTorch becomes a fully connected layer.

A layer's weight has a scale for each output channel, and is trained as a weight; a product of two tensors knows one scale for
each. ``addmm`` (the ``Conv1D`` of Hugging Face's GPT-2), ``mm``, ``bmm``, ``baddbmm``, ``matmul`` and ``einsum`` with the
parameter on either side, ``mv`` and ``addmv`` are such products. The parameter keeps its layout: the weight that the layer reads
is computed from it, see :mod:`qat.adapters.torch.capture.computed_weights`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx

from qat.graph.einsum import DenseTerms, dense_terms

from .rewriter import Rewriter, fake_mode, given

aten = torch.ops.aten
#: Marks a layer that this pass has written.
_MADE = "was_a_product"


def as_layers(graph: fx.Graph, derived: Collection[fx.Node]) -> None:
    """Write layers in the place of products, in place.

    Args:
        graph: as captured.
        derived: the nodes that no input of the model takes part in.
    """
    writer = _Writer(Rewriter(graph, fake_mode(graph)), derived)
    for node in list(graph.nodes):
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is not None and (made := rule(writer, node)) is not None:
            node.replace_all_uses_with(made)
            graph.erase_node(node)
    graph.eliminate_dead_code()


class _Writer:
    """Writes a product with a parameter as a layer."""

    def __init__(self, rewriter: Rewriter, derived: Collection[fx.Node]) -> None:
        self.rewriter, self.derived = rewriter, derived

    def einsum(self, n: fx.Node, labels: str, x: fx.Node, y: fx.Node, factor: float = 1.0) -> fx.Node | None:
        """Write an equation of two tensors, one of them a parameter; None where a layer does not compute it."""
        left, _, result = labels.partition("->")
        a, b = left.split(",")
        if self._matrix(n, x) is not None:
            a, b, x, y = b, a, y, x
        weight = self._matrix(n, y)
        if weight is None or self._matrix(n, x) is not None or not _is_float(x):
            return None
        b = b[len(b) - len(_shape(weight)) :]  # a parameter that is expanded over the batch is the same for every sample
        terms = dense_terms(a, b, result)
        return None if terms is None else self._layer(n, terms, x, weight, factor)

    def _matrix(self, n: fx.Node, node: fx.Node) -> fx.Node | None:
        """Return what product ``n`` reads, without the batch that it is repeated for; None unless parameters alone make it."""
        source: Any = node
        if node.target in (aten.expand.default, aten.repeat.default) and node.args[0] in self.derived:
            source = node.args[0]
            if _shape(node)[-2:] != _shape(source)[-2:]:
                return None
        elif node not in self.derived:
            return None
        shape = _shape(source)
        if not _is_float(source) or not all(isinstance(size, int) for size in shape):
            return None
        return self.rewriter.call(n, aten.squeeze.dim, source, 0) if len(shape) == 3 and shape[0] == 1 else source

    def _layer(self, n: fx.Node, terms: DenseTerms, x: fx.Node, weight: fx.Node, factor: float) -> fx.Node:
        w, summed = self.rewriter, len(terms.summed)
        x = self._permuted(n, x, terms.input)
        kept, inner = _shape(x)[:-summed], _shape(x)[-summed:]
        if summed > 1:
            value, last = x.meta["val"], len(kept) + summed - 1
            x = w.known(n, lambda: value.reshape([*kept, math.prod(inner)]), aten.flatten.using_ints, x, len(kept), last)
        weight = self._permuted(n, weight, terms.weight)
        outer = _shape(weight)[:-summed]
        if len(outer) != 1 or summed != 1:
            weight = w.call(n, aten.reshape.default, weight, [math.prod(outer), math.prod(inner)])
        if factor != 1:
            weight = w.call(n, aten.mul.Tensor, weight, factor)
        y = w.call(n, aten.linear.default, x, weight, None)
        y.meta[_MADE] = True
        if not outer:
            y = w.call(n, aten.squeeze.dim, y, -1)
        elif len(outer) > 1:
            y = w.call(n, aten.unflatten.int, y, -1, list(outer))
        return self._permuted(n, y, terms.result)

    def _permuted(self, n: fx.Node, x: fx.Node, axes: tuple[int, ...]) -> fx.Node:
        """Return a tensor with its axes in another order; two permutations in turn are one."""
        turn = turn_of(x)
        if turn is not None:
            source: Any = x.args[0]
            x, axes = source, tuple(turn[a] for a in axes)
        return x if axes == tuple(range(len(axes))) else self.rewriter.call(n, aten.permute.default, x, list(axes))

    def added(self, n: fx.Node, labels: str, bias: fx.Node, x: fx.Node, y: fx.Node) -> fx.Node | None:
        """Write ``beta * bias + alpha * (x @ y)``."""
        numbers: list[Any] = [n.kwargs.get(name, 1) for name in ("beta", "alpha")]
        beta, alpha = numbers
        made = self.einsum(n, labels, x, y, alpha) if _is_float(bias) else None
        if made is None or beta == 0:
            return made
        scaled = bias if beta == 1 else self.rewriter.call(n, aten.mul.Tensor, bias, beta)
        return self.with_bias(n, made, scaled, bias) or self.rewriter.call(n, aten.add.Tensor, made, scaled)

    def with_bias(self, n: fx.Node, layer: fx.Node, bias: fx.Node, source: fx.Node) -> fx.Node | None:
        """Write a layer of this pass with a bias that is, or is computed from, the parameter ``source``."""
        plain = layer.target is aten.linear.default and layer.meta.get(_MADE) and layer.args[2] is None
        if not plain or source.op != "placeholder" or source not in self.derived or _shape(bias) != _shape(layer)[-1:]:
            return None
        return self.rewriter.call(n, aten.linear.default, *layer.args[:2], bias)


def _matmul_labels(x: fx.Node, y: fx.Node) -> str:
    """Return the equation of a product on the last two axes; an operand of one axis has no rows or no columns."""
    ranks = len(_shape(x)), len(_shape(y))
    batch = string.ascii_lowercase[: max(ranks) - 2] if max(ranks) > 2 else ""
    rows, columns = ("Y" if ranks[0] > 1 else ""), ("Z" if ranks[1] > 1 else "")
    a, b = batch[len(batch) - max(ranks[0] - 2, 0) :], batch[len(batch) - max(ranks[1] - 2, 0) :]
    return f"{a}{rows}S,{b}S{columns}->{batch}{rows}{columns}"


def _matmul(w: _Writer, n: Any) -> fx.Node | None:
    x, y = n.args
    return w.einsum(n, _matmul_labels(x, y), x, y)


def _einsum(w: _Writer, n: Any) -> fx.Node | None:
    equation, operands = str(n.args[0]).replace(" ", ""), n.args[1]
    plain = len(operands) == 2 and "->" in equation and "." not in equation
    return w.einsum(n, equation, *operands) if plain else None


def _tensordot(w: _Writer, n: Any) -> fx.Node | None:
    x, y, of_x, of_y = n.args
    a, b = list(string.ascii_lowercase[: len(_shape(x))]), list(string.ascii_uppercase[: len(_shape(y))])
    for i, j in zip(of_x, of_y, strict=True):
        b[j] = a[i]
    result = [label for label in (*a, *b) if (label in a) != (label in b)]
    return w.einsum(n, f"{''.join(a)},{''.join(b)}->{''.join(result)}", x, y)


def _add(w: _Writer, n: Any) -> fx.Node | None:
    """Add a parameter to a layer of this pass: its bias."""
    if not all(map(_is_float, n.args)) or n.kwargs.get("alpha", 1) != 1:
        return None
    layer, bias = n.args if n.args[0].meta.get(_MADE) else n.args[::-1]
    return w.with_bias(n, layer, bias, bias) if len(layer.users) == 1 else None


def _added(w: _Writer, n: Any) -> fx.Node | None:
    bias, x, y = n.args[:3]
    return w.added(n, _matmul_labels(x, y), bias, x, y)


_RULES: dict[Any, Callable[[_Writer, Any], fx.Node | None]] = {
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default), _matmul),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default, aten.addmv.default), _added),
    aten.add.Tensor: _add,
    aten.einsum.default: _einsum,
    aten.tensordot.default: _tensordot,
}


def turn_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the order into which a node brings the axes of its input; None of any other operator."""
    rank, target = len(_shape(node)), node.target
    axes = list(range(rank))
    if target is aten.permute.default:
        return tuple(int(axis) % rank for axis in given(node, None)[0])
    if target in (aten.transpose.int, aten.swapaxes.default):
        first, second = (int(axis) % rank for axis in given(node, None, None))
    elif target in (aten.t.default, aten.mT.default, aten.numpy_T.default) and rank >= 2:
        first, second = rank - 2, rank - 1
        if rank > 2 and target is aten.numpy_T.default:
            return tuple(reversed(axes))
    else:
        return None
    axes[first], axes[second] = second, first
    return tuple(axes)


def _is_float(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _shape(node: fx.Node) -> list[Any]:
    return list(node.meta["val"].shape)

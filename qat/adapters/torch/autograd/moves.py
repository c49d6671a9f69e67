"""Captured operators that move integers and copy nothing: the bytes that are kept of a tensor move along.

Parts of a tensor that make up the whole, as query, key and value do, are taken by one node, whose gradient is written once: of
each part alone PyTorch would make a gradient of the whole, and add these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from .kept_bytes import moved

aten = torch.ops.aten

#: The first index of a part, and the one after its last; None: a part of one index, without the axis.
Span = tuple[int, int | None]
Parts = tuple[Tensor, ...] | None


def permuted(x: Tensor, axes: list[int]) -> Tensor:
    """Return ``x`` with its axes in another order."""
    return moved(x, x.permute(axes), lambda t: t.permute(axes))


def transposed(x: Tensor, one: int, another: int) -> Tensor:
    """Return ``x`` with two axes exchanged."""
    return moved(x, x.transpose(one, another), lambda t: t.transpose(one, another))


def selected(x: Tensor, axis: int, index: int, parts: Parts = None, place: int = 0) -> Tensor:
    """Return the part of one index, without the axis: that of a place among :func:`parts_of`, where these are given."""
    if parts is not None:
        return parts[place]
    return moved(x, x.select(axis, index), lambda t: t.select(axis, index))


def sliced(
    x: Tensor, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1, parts: Parts = None, place: int = 0
) -> Tensor:
    """Return a slice of an axis as :func:`selected`."""
    if parts is not None:
        return parts[place]

    def cut(t: Tensor) -> Tensor:
        found: Tensor = aten.slice.Tensor(t, axis, start, end, step)
        return found

    return moved(x, cut(x), cut)


#: What takes the place of an operator in a prepared model.
CARRYING: Mapping[Any, Callable[..., Tensor]] = MappingProxyType(
    {
        aten.permute.default: permuted,
        aten.transpose.int: transposed,
        aten.select.int: selected,
        aten.slice.Tensor: sliced,
    }
)


class _Parts(torch.autograd.Function):
    """The parts of an axis, which together are the whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, spans: tuple[Span, ...]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.layout = x.shape, torch.empty_like(x, device="meta").stride()  # that of new memory like it
        ctx.axis, ctx.spans = axis, spans
        return tuple(_part(x, axis, span) for span in spans)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        some = next((grad for grad in grads if grad is not None), None)
        if some is None:
            return None, None, None
        found = some.new_empty_strided(*ctx.layout)
        for span, grad in zip(ctx.spans, grads, strict=True):
            part = _part(found, ctx.axis, span)
            part.zero_() if grad is None else part.copy_(grad)
        return found, None, None


def parts_of(x: Tensor, axis: int, spans: tuple[Span, ...]) -> tuple[Tensor, ...]:
    """Return the parts of an axis, which together are the whole."""
    if torch.compiler.is_compiling():  # which writes gradients once by itself
        return tuple(_part(x, axis, span) for span in spans)
    found = _Parts.apply(x, axis, spans)
    return tuple(moved(x, y, partial(_part, axis=axis, span=span)) for y, span in zip(found, spans, strict=True))


def _part(x: Tensor, axis: int, span: Span) -> Tensor:
    start, end = span
    return x.select(axis, start) if end is None else x.narrow(axis, start, end - start)


def take_together(graph: fx.Graph, sizes: Mapping[fx.Node, Sequence[int | None]]) -> None:
    """Let the parts of a tensor that make up an axis be taken together.

    Args:
        graph: of a prepared model.
        sizes: of its nodes; None is the batch's.
    """
    found: dict[tuple[fx.Node, int], dict[Span, list[fx.Node]]] = {}
    for node in graph.nodes:
        source: Any = node.args[0] if node.args else None
        if node.target in (selected, sliced) and source in sizes and not node.kwargs:
            axis, span = _span(node, sizes[source])
            if span is not None:
                found.setdefault((source, axis), {}).setdefault(span, []).append(node)
    for (source, axis), readers in found.items():
        spans = sorted(readers, key=lambda span: span[0])
        ends = [start + 1 if end is None else end for start, end in spans]
        if len(spans) > 1 and [start for start, _ in spans] == [0, *ends[:-1]] and ends[-1] == sizes[source][axis]:
            with graph.inserting_after(source):
                together = graph.call_function(parts_of, (source, axis, tuple(spans)))
            for place, span in enumerate(spans):
                for node in readers[span]:
                    node.kwargs = {"parts": together, "place": place}


def captured_kwargs(node: fx.Node) -> dict[str, Any]:
    """Return the named arguments that an operator had when it was captured."""
    return {name: value for name, value in node.kwargs.items() if name not in ("parts", "place")}


def _span(node: fx.Node, shape: Sequence[int | None]) -> tuple[int, Span | None]:
    """Return the axis and the span of a part; None where it is none of a fixed place."""
    args: tuple[Any, ...] = node.args[1:] or (0,)
    axis, *where = args
    size = shape[axis]
    if size is None or not all(i is None or isinstance(i, int) for i in where):
        return axis % len(shape), None
    if node.target is selected:
        return axis % len(shape), (where[0] % size, None)
    start, end, step = slice(*where, *(None, None, None)[len(where) :]).indices(size)
    return axis % len(shape), (start, end) if step == 1 and start < end else None

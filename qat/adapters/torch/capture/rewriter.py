"""The tools of rewriting rules: new nodes in the captured graph, and the arguments and sizes of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten


class Rewriter:
    """Writes nodes before the node that is being replaced. Their shapes are computed as torch.export computes them."""

    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        self.graph, self.mode = graph, mode

    def call(self, like: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operator in the place of ``like``."""
        values = fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
        return self.known(like, lambda: target(*values[0], **values[1]), target, *args, **kwargs)

    def known(self, like: fx.Node, value: Callable[[], Any], target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operator whose result has the shape of ``value()``."""
        with self.graph.inserting_before(like):
            node = self.graph.call_function(target, args, kwargs)
        with self.mode:
            node.meta = {**like.meta, "val": value()}
        return node


def fake_mode(graph: fx.Graph) -> FakeTensorMode:
    """Return the mode that a captured graph's tensors were made in."""
    values = [n.meta.get("val") for n in graph.nodes if n.op == "placeholder"]
    found: FakeTensorMode | None = next((v.fake_mode for v in values if hasattr(v, "fake_mode")), None)
    return found or FakeTensorMode()


#: From a node to the node that replaces it; None where the node stays.
Rewrite = Callable[[Rewriter, Any], fx.Node | None]


def given(n: Any, *defaults: Any) -> list[Any]:
    """Return the arguments of a captured operator after the first, as far as there are defaults for them."""
    names = [a.name for a in n.target._schema.arguments[1:]]
    given = [*n.args[1:]]
    return [
        given[i] if i < len(given) else n.kwargs.get(name, default)
        for i, (name, default) in enumerate(zip(names, defaults, strict=False))
    ]


def rank_of(node: Any) -> int:
    """Return the rank of a float32 tensor that is computed; 0 for anything else."""
    value = node.meta.get("val") if isinstance(node, fx.Node) and node.op == "call_function" else None
    return value.ndim if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else 0


def sizes_of(node: Any) -> list[int]:
    """Return the sizes of a float32 tensor without the batch; empty where there are none, or one is not fixed."""
    sizes = list(node.meta["val"].shape[1:]) if rank_of(node) else []
    return sizes if all(isinstance(size, int) for size in sizes) else []


def reshape(w: Rewriter, n: fx.Node, x: fx.Node, sizes: list[int]) -> fx.Node:
    """Write a tensor with other sizes after the batch."""
    value = x.meta["val"]
    if list(value.shape[1:]) == sizes:
        return x
    return w.known(n, lambda: value.reshape(value.shape[0], *sizes), aten.reshape.default, x, [-1, *sizes])


def padded(w: Rewriter, n: fx.Node, x: fx.Node, amounts: list[int]) -> fx.Node:
    """Write a tensor with zeros around it; ``amounts`` starts with both sides of the last axis."""
    value = x.meta["val"]
    # The shape is known. Computed by padding, it would fix the size of the batch.
    added = [a + b for a, b in zip(amounts[::2], amounts[1::2], strict=True)][::-1]
    shape = [*value.shape[: -len(added)], *(size + more for size, more in zip(value.shape[-len(added) :], added, strict=True))]
    return w.known(n, lambda: value.new_empty(shape), aten.constant_pad_nd.default, x, amounts)

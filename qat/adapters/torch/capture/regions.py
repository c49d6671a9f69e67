"""Regions of a captured graph, as ``torch.autocast`` and ``torch.no_grad`` make them, become part of the graph itself."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

#: The calls of a region: the setting's arguments, the region's graph, and what it reads.
_REGIONS = (torch.ops.higher_order.wrap_with_autocast, torch.ops.higher_order.wrap_with_set_grad_enabled)


def inline_regions(module: fx.GraphModule) -> None:
    """Put the operators of each region in the place of its call, in the types that they have without autocast."""
    for call in list(module.graph.nodes):
        if call.op == "call_function" and call.target in _REGIONS:
            _inline(module, call)
    module.graph.eliminate_dead_code()


def _inline(module: fx.GraphModule, call: fx.Node) -> None:
    place = next(i for i, arg in enumerate(call.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
    inside: Any = module.get_submodule(str(call.args[place].target))  # type: ignore[union-attr]
    inline_regions(inside)
    waiting = iter(call.args[place + 1 :])
    made: dict[fx.Node, Any] = {}
    with module.graph.inserting_before(call):
        for node in inside.graph.nodes:
            if node.op == "placeholder":
                made[node] = next(waiting)
            elif node.op == "output":
                _read(call, fx.node.map_arg(node.args[0], made.__getitem__))
            else:
                made[node] = module.graph.node_copy(node, made.__getitem__)
                if call.target is _REGIONS[0]:
                    _without_autocast(made[node])
    module.graph.erase_node(call)


def _read(call: fx.Node, results: Any) -> None:
    """Let the readers of a region's results read what computes them."""
    if isinstance(results, fx.Node):
        call.replace_all_uses_with(results)
        return
    for user in list(call.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])
        user.graph.erase_node(user)


def _without_autocast(node: fx.Node) -> None:
    """Compute the value of a node anew: autocast has given it another type."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    if isinstance(node.target, torch._ops.OpOverload) and any(
        isinstance(n.meta["val"], torch.Tensor) for n in node.all_input_nodes
    ):
        with torch.autocast("cpu", enabled=False):
            node.meta["val"] = node.target(*args, **kwargs)

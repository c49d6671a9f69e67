"""Regions of a captured graph, as ``torch.autocast`` and ``torch.no_grad`` make them, become part of the graph itself."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from qat.errors import CaptureError

#: The module of the marks that ``torch.vmap`` leaves in a graph.
_VMAP = "torch._functorch.predispatch"
#: The calls of a region: the setting's arguments, the region's graph, and what it reads.
_REGIONS = (torch.ops.higher_order.wrap_with_autocast, torch.ops.higher_order.wrap_with_set_grad_enabled)


def is_mapped(graph: fx.Graph) -> bool:
    """Whether a graph repeats operators by ``torch.vmap``: its marks have no readers, and are lost with what nobody reads."""
    return any(getattr(node.target, "__module__", "") == _VMAP for node in graph.nodes)


def inline_regions(module: fx.GraphModule) -> None:
    """Put the operators of each region in the place of its call, in the types that they have without autocast.

    Both branches of a ``torch.cond`` are computed, and its results chosen: a graph of a file has one course.

    Raises:
        CaptureError: the graph holds a loop or a choice that has no such form.
    """
    for call in list(module.graph.nodes):
        if call.op == "call_function" and call.target in _REGIONS:
            place = next(i for i, arg in enumerate(call.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
            _read(call, _inlined(module, call, call.args[place], call.args[place + 1 :]))
            module.graph.erase_node(call)
        elif call.op == "call_function" and call.target is torch.ops.higher_order.cond:
            _choose(module, call)
        elif call.op == "call_function" and isinstance(call.target, torch._ops.HigherOrderOperator):
            raise _refused(call)
    module.graph.eliminate_dead_code()


def _inlined(module: fx.GraphModule, call: fx.Node, region: Any, operands: Iterable[Any]) -> Any:
    """Copy the operators of a region before its call, and return what the region returns."""
    inside: Any = module.get_submodule(str(region.target))
    inline_regions(inside)
    waiting = iter(operands)
    made: dict[fx.Node, Any] = {}
    results = None
    with module.graph.inserting_before(call):
        for node in inside.graph.nodes:
            if node.op == "placeholder":
                made[node] = next(waiting)
            elif node.op == "output":
                results = fx.node.map_arg(node.args[0], made.__getitem__)
            else:
                made[node] = module.graph.node_copy(node, made.__getitem__)
                if call.target is _REGIONS[0]:
                    _without_autocast(made[node])
    return results


def _choose(module: fx.GraphModule, call: fx.Node) -> None:
    """Compute both branches of a condition before its call, and choose between each pair of results."""
    condition, then, otherwise, operands = call.args
    if not (isinstance(condition, fx.Node) and isinstance(condition.meta["val"], torch.Tensor)):
        raise _refused(call)
    pairs = zip(*(_inlined(module, call, branch, operands) for branch in (then, otherwise)), strict=True)  # type: ignore[arg-type]
    chosen = []
    with module.graph.inserting_before(call):
        for pair, value in zip(pairs, call.meta["val"], strict=True):
            chosen.append(module.graph.call_function(torch.ops.aten.where.self, (condition, *pair)))
            chosen[-1].meta = {**call.meta, "val": value}
    _read(call, chosen)
    module.graph.erase_node(call)


def _refused(call: fx.Node) -> CaptureError:
    return CaptureError(
        f"torch.{call.target} makes a course of operators that depends on values, which a file of a graph does not hold: "
        "replace it by operators on tensors, or prepare the part of the model before it"
    )


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

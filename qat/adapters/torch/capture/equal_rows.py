"""What a model computes of the number of samples alone, the same for each of them: the places of an image, a mask of ones.

Such a tensor becomes a constant of one sample that is expanded, as a class token is: nothing of it is computed at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qat.system.sample_axes import Axes

from .batch_sizes import are_equal, for_batch
from .constants import filled_with, is_pure, sizes_in
from .match import is_tensor
from .rewriter import fake_mode

aten = torch.ops.aten

#: Multiples of the examples' batch: what a model takes of the one it takes of the others. Rows that are equal in both, and among
#: each other, are those of any.
_BATCHES = (1, 3)


def fold_equal_rows(
    graph: fx.Graph, owner: Mapping[str, str], tensors: Mapping[str, Tensor], examples: Sequence[Tensor], axes: Axes
) -> None:
    """Put an expanded placeholder in the place of each tensor whose samples are all one constant, in place.

    Args:
        graph: as captured.
        owner: the name of the parameter or buffer behind each placeholder.
        tensors: those by name.
        examples: the inputs that it was captured with.
        axes: those along which they count the samples.
    """
    inputs = [node for node in graph.find_nodes(op="placeholder") if node.name not in owner]
    counted = next(((x, a, len(t.movedim(a, 0))) for x, t, a in zip(inputs, examples, axes, strict=True) if a is not None), None)
    if counted is None:
        return
    source, axis, samples = counted
    batch = source.meta["val"].shape[axis]
    few, many = (_known(graph, owner, tensors, inputs, axes, samples * n) for n in _BATCHES)
    mode, first = fake_mode(graph), next(iter(graph.nodes))
    for node in [n for n in few if _is_worth(n, few)]:
        row, sizes = _row(few[node], many[node]), node.meta["val"].shape
        if row is None or not are_equal((batch, sizes[0])):
            continue
        with graph.inserting_before(first):
            held = graph.placeholder(f"{node.name}_row")
        with mode:
            held.meta = {"val": torch.empty(row.shape), "equal_rows": (f"{node.name}.row", row)}
        with graph.inserting_before(node):
            count = graph.call_function(aten.sym_size.int, (source, axis))
            spread = graph.call_function(aten.expand.default, (held, [count, *sizes[1:]]))
        count.meta, spread.meta = {"val": batch}, dict(node.meta)
        node.replace_all_uses_with(spread, delete_user_cb=lambda user: user not in few)
    for node in reversed(few):
        if node.op == "call_function" and not node.users:  # torch.export's checks of what it knows are among them
            graph.erase_node(node)


def equal_rows(graph: fx.Graph) -> dict[str, tuple[str, Tensor]]:
    """Return the name and the value of each placeholder that :func:`fold_equal_rows` has put into a graph."""
    return {n.name: n.meta["equal_rows"] for n in graph.nodes if n.op == "placeholder" and "equal_rows" in n.meta}


def _known(
    graph: fx.Graph,
    owner: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[fx.Node],
    axes: Axes,
    batch: int,
) -> dict[fx.Node, Any]:
    """Return the values, for a batch, of the nodes of which no input and no trained parameter takes part but by the batch."""
    counts = [x.meta["val"].shape[a] for x, a in zip(inputs, axes, strict=True) if a is not None]
    symbols = {symbol for size in counts for symbol in _symbols(size)}
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        made: Any = node.meta.get("val")
        name = owner.get(node.name) if node.op == "placeholder" else None
        if name is not None and isinstance(tensors[name], Tensor) and not tensors[name].requires_grad:
            known[node] = tensors[name]
        elif node.op != "call_function" or not symbols.issuperset(_symbols(made)):
            continue
        elif isinstance(made, (int, torch.SymInt)):
            known[node] = for_batch(made, batch, {})
        elif (number := filled_with(node)) is not None:
            known[node] = torch.full([for_batch(size, batch, {}) for size in made.shape], number, dtype=made.dtype)
        elif is_pure(node) and all(source in known for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    return known


def _symbols(value: Any) -> set[Any]:
    """Return the symbols of the free sizes of what a node makes."""
    return {s for size in sizes_in(value) if isinstance(size, torch.SymInt) for s in size.node.expr.free_symbols}


def _is_worth(node: fx.Node, known: Mapping[fx.Node, Any]) -> bool:
    """Whether a tensor of samples is computed, and not expanded alone, and read by what takes an input or a parameter."""
    made: Any = node.meta.get("val")
    if node.op != "call_function" or node.target is aten.expand.default or not is_tensor(node) or made.dtype != torch.float32:
        return False
    free = [isinstance(size, torch.SymInt) for size in made.shape]
    return free[:1] == [True] and not any(free[1:]) and any(user not in known and user.op != "output" for user in node.users)


def _row(few: Tensor, many: Tensor) -> Tensor | None:
    """Return the one sample of which all values of a tensor are; None where they differ."""
    same = few.shape[1:] == many.shape[1:] and all(torch.equal(value, few[:1].expand_as(value)) for value in (few, many))
    return few[:1].clone() if same else None

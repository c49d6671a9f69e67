"""Transposes of more axes than a kernel takes, as patches of clips have, in transposes of fewer and reshapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..graph import Graph, Op
from .draft import Draft, product

#: Axes of a tensor, in groups: each is one axis of a reshaped tensor.
Groups = tuple[tuple[int, ...], ...]


def transposes_of_few_axes(graph: Graph, most: int) -> Graph:
    """Return the graph with every transpose of more than ``most`` axes written in reshapes and transposes of fewer.

    One whose batch moves, or that has free sizes beside it, stays.
    """
    many = {op.name for op in graph.ops if op.kind == "transpose" and _is_to_write(graph, op, most)}
    if not many:
        return graph
    draft = Draft(graph)
    for op in graph.ops:
        if op.name in many:
            _in_steps(draft, op, most)
        else:
            draft.ops.append(op)
    return draft.finished()


def steps(axes: Sequence[int], most: int) -> list[tuple[Groups, tuple[int, ...]]]:
    """Return transposes of at most ``most`` axes that make one: the groups of each step's axes, and their order.

    Args:
        axes: of the transpose, the batch first.
        most: five or more.

    Examples:
        >>> steps((0, 3, 4, 1, 2), 5)
        [(((0,), (1, 2), (3, 4)), (0, 2, 1))]
    """
    wanted = _side_by_side(axes)
    present = sorted(wanted)
    if len(wanted) <= most:
        return [(tuple(present), tuple(present.index(group) for group in wanted))]
    made = []
    for place, group in enumerate(wanted):
        at = present.index(group)
        if at != place:
            parts = (present[:1], present[1:place], present[place:at], [group], present[at + 1 :])
            groups = [tuple(axis for each in part for axis in each) for part in parts]
            order = [0, 1, 3, 2, 4]
            kept = [i for i in range(5) if groups[i]]
            made.append((tuple(groups[i] for i in kept), tuple(kept.index(i) for i in order if i in kept)))
            present.insert(place, present.pop(at))
    return made


def transposed(x: Any, axes: Sequence[int], most: int, reshape: Callable[..., Any], transpose: Callable[..., Any]) -> Any:
    """Return a framework's tensor transposed by its own functions, in tensors of at most ``most`` axes where one size is free."""
    sizes = [1, *x.shape]
    if len(axes) <= most or sizes.count(None) > 1:
        return transpose(x, axes)

    def laid(groups: Groups) -> Any:
        sides = (product([sizes[axis] for axis in group]) for group in groups)
        return reshape(x, [-1 if size is None else size for size in sides])

    moved = [axis % len(axes) + 1 for axis in axes]
    for groups, order in steps((0, *moved), most):
        x = transpose(laid(groups), order)
    return laid(tuple((axis,) for axis in moved))


def _is_to_write(graph: Graph, op: Op, most: int) -> bool:
    shape, axes = graph.tensors[op.inputs[0]].shape, op.attrs["axes"]
    return len(axes) > most and axes[0] == 0 and None not in shape[1:]


def _side_by_side(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the axes of a transpose in groups of those that stay side by side; the batch is one of its own."""
    groups: list[tuple[int, ...]] = []
    for axis in axes:
        if len(groups) > 1 and groups[-1][-1] == axis - 1:
            groups[-1] = (*groups[-1], axis)
        else:
            groups.append((axis,))
    return groups


def _in_steps(draft: Draft, op: Op, most: int) -> None:
    """Write a transpose as reshapes and transposes of fewer axes."""
    (source,), made = op.inputs, steps(op.attrs["axes"], most)
    spec = draft.tensors[source]

    def laid(name: str, groups: Groups) -> str:
        example = [product([spec.example[axis] for axis in group]) or 0 for group in groups] if spec.example else ()
        return draft.add_tensor(name, [product([spec.shape[axis] for axis in group]) for group in groups], example)

    for number, (groups, order) in enumerate(made):
        blocks = laid(f"{op.output}_blocks", groups)
        draft.reshape(source, blocks, op.scope)
        source = laid(f"{op.output}_moved", tuple(groups[i] for i in order))
        name = op.name if number == len(made) - 1 else draft.unused(source)
        draft.ops.append(replace(op, name=name, inputs=(blocks,), outputs=(source,), attrs={"axes": order}))
    draft.reshape(source, op.output, op.scope)

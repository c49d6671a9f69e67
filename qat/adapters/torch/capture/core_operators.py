"""The core ATen operators that captured operators consist of, as :mod:`qat.planning.held_in_tflite` knows them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from qat.planning.held_in_tflite import Called

aten = torch.ops.aten

#: What PyTorch would take apart into many operators.
_WHOLE = (aten.upsample_bicubic2d.vec,)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return by what PyTorch replaces the operators that are not core ATen operators."""
    table = torch.export.default_decompositions()
    return {op: table[op] for op in table if op not in _WHOLE}


def calls(graph: fx.Graph) -> Iterator[Called]:
    """Yield the calls of ATen operators in a graph. Python's own operators, on sizes, are none."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target.__name__ not in dir(operator):
            yield called(node)


def called(node: fx.Node) -> Called:
    """Return the call that a captured node is."""
    name, value = str(node.target), _value(node.all_input_nodes[0]) if node.all_input_nodes else None
    shape = tuple(n if isinstance(n, int) else None for n in value.shape) if isinstance(value, torch.Tensor) else ()
    read = {int(user.args[1]) for user in node.users if user.target is operator.getitem}  # type: ignore[arg-type]
    schema = getattr(node.target, "_schema", None)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments if schema is not None else ()):
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        arguments[argument.name] = [_described(x) for x in given] if isinstance(given, (list, tuple)) else _described(given)
    return Called(name, shape, _dtype(value), frozenset(read), arguments)


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


def _described(given: Any) -> Any:
    return _dtype(_value(given)) if isinstance(given, fx.Node) else given


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""

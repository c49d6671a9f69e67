"""Constants that are added behind a convolution or a product become its bias, which the file wrote as an operator of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from .known import Known, Operand
from .reading import FileNode

#: Where each operator takes its bias, and the axis of its weight that counts the output's channels.
_BIASED = {"Conv": (2, 0), "MatMul": (2, 1)}


def with_biases(nodes: Sequence[FileNode], values: Mapping[str, Operand | None], outputs: Sequence[str]) -> list[FileNode]:
    """Return the nodes with each addition of constants, one a channel, in the operator before it."""
    readers = Counter(name for node in nodes for name in _read(node)) + Counter(outputs)
    adding = {name: node for node in nodes if (node.domain, node.type) == ("", "Add") for name in node.inputs}
    removed: set[str] = set()
    result = []
    for node in nodes:
        if node.type == "Add" and removed.intersection(node.outputs):
            continue
        add = adding.get(node.outputs[0]) if node.outputs else None
        bias = _bias(node, add, values) if add is not None and readers[node.outputs[0]] == 1 else None
        if add is not None and bias is not None:
            place = _BIASED[node.type][0]
            node = replace(node, inputs=(*node.inputs[:place], bias), outputs=add.outputs)
            removed.add(add.outputs[0])
        result.append(node)
    return result


def _bias(node: FileNode, add: FileNode, values: Mapping[str, Operand | None]) -> str | None:
    """Return the name of the constant that can be a node's bias."""
    if node.domain or node.type not in _BIASED or (len(node.inputs) > 2 and node.inputs[2]):
        return None
    weight = values.get(node.inputs[1])
    name = next((n for n in add.inputs if n != node.outputs[0]), "")
    constant = values.get(name)
    if not isinstance(weight, Known) or not isinstance(constant, Known) or weight.symbolic or constant.symbolic:
        return None
    array, rank = constant.array, weight.array.ndim
    count = weight.array.shape[_BIASED[node.type][1]] if rank > 1 else 0
    if node.type == "MatMul":
        return name if rank == 2 and array.shape == (count,) else None
    channels = (1,) * (array.ndim - rank + 1) + (count,) + (1,) * (rank - 2)
    return name if array.shape in (channels, (1, *channels)) and array.ndim <= rank else None


def _read(node: FileNode) -> Iterator[str]:
    """Return the names that a node reads, also within its branches."""
    yield from node.inputs
    for value in node.attributes.values():
        yield from _read_within(value)


def _read_within(value: Any) -> Iterator[str]:
    if isinstance(value, onnx.GraphProto):
        for node in value.node:
            yield from node.input
            for attribute in node.attribute:
                yield from _read_within(attribute.g)
        yield from (output.name for output in value.output)

"""What a call makes for each sample alike: constants and parameters that are spread over the batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras.src.ops.symbolic_arguments import SymbolicArguments

from qat.graph.graph import Op, TensorSpec

from .batch_operations import PerSample, SpreadOverBatch
from .builder import Builder
from .counted_batch import Record
from .layer_calls import placeholder

#: The operation that gives each sample the same values.
SPREAD = SpreadOverBatch.__name__
#: Operations of which an operand may have one sample where another one has many.
_BROADCASTING = {
    "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Power", "Mod", "Maximum", "Minimum", "Where", "LogicalAnd",
    "LogicalOr", "LogicalXor", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "DotProductAttention",
}  # fmt: skip
#: Kinds of operators that broadcast.
_BROADCASTING_KINDS = ("add", "mul", "minimum", "maximum")


def settled(b: Builder, node: Any, path: str) -> Any:
    """Return a call with arrays or tensors in place of the constants for each sample that are among its arguments."""
    values = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    if not any(isinstance(value, PerSample) for value in values):
        return node
    broadcasts = type(node.operation).__name__ in _BROADCASTING and any(_has_samples(value) for value in values)

    def settle(value: Any) -> Any:
        if not isinstance(value, PerSample):
            return value
        return value.row if broadcasts else _spread(b, value, path)

    args, kwargs = keras.tree.map_structure(settle, (node.arguments.args, node.arguments.kwargs))
    return Record(node.operation, SymbolicArguments(*args, **kwargs), node.outputs)


def _has_samples(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor) and bool(value.shape) and value.shape[0] is None


def _spread(b: Builder, value: PerSample, path: str) -> keras.KerasTensor:
    """Add the operator that gives each sample a constant, and return its tensor."""
    spread = SpreadOverBatch(value.row.shape[1:])
    made = spread.compute_output_spec(value.row, value.like)
    arguments = [value.row, placeholder(0)], dict[str, Any]()
    b.names[id(made)] = b.keep("float", spread, [b.names[id(value.like)]], [made], path, arguments)[0]
    b.opened.append(made)  # names go by ids
    return made


def without_spreads(ops: Sequence[Op], specs: Mapping[str, TensorSpec]) -> list[Op]:
    """Return operators that read what was spread over the batch as it was before, where they broadcast it themselves."""
    source = {op.output: op.inputs[0] for op in ops if op.attrs.get("target") == SPREAD and len(op.inputs) == 2}

    def bare(op: Op) -> Op:
        if op.kind not in _BROADCASTING_KINDS or not source.keys() & set(op.inputs):
            return op
        whole = [t for t in op.inputs if t not in source and specs[t].shape == specs[op.output].shape]
        return replace(op, inputs=tuple(source.get(t, t) for t in op.inputs)) if whole else op

    return [bare(op) for op in ops]


def without_unread(ops: Sequence[Op], droppable: Collection[str], outputs: Collection[str]) -> list[Op]:
    """Return operators without unread ones: parameters, what spreads a tensor, and what writes a ``droppable`` one."""
    read, kept = set(outputs), list[Op]()
    for op in reversed(ops):
        needless = op.kind == "constant" or op.output in droppable or op.attrs.get("target") == SPREAD
        if not needless or op.output in read:
            kept.append(op)
            read.update(op.inputs)
    return kept[::-1]

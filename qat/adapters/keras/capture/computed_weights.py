"""Weights that a layer's ``call`` computes from its variables: they leave the recorded calls, and become parameters of the graph.

Weight standardization, weight normalization, equalized learning rates, low-rank updates and masks have this form. In the graph
stands a constant, as of any variable, so that rules and passes know nothing of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from .builder import Builder
from .layer_calls import with_placeholders
from .weight_function import Step, WeightFunction

#: Operations that only lay numbers out anew. A product reads what they make as its weight; for others the rules see them.
_VIEWS = {
    "Reshape", "Ravel", "Transpose", "Swapaxes", "Moveaxis", "ExpandDims", "Squeeze", "BroadcastTo", "GetItem", "Slice", "Take",
    "Cast", "ConvertToTensor", "Identity",
}  # fmt: skip
#: Operations whose second operand is a weight.
_PRODUCTS = {"Conv", "DepthwiseConv", "ConvTranspose", "Matmul", "Einsum", "Dot", "Tensordot"}


def lift_computed_weights(
    b: Builder, nodes: Sequence[Any], variables: Mapping[int, keras.Variable], outputs: Sequence[Any], path: str
) -> list[Any]:
    """Add a constant for each tensor that a call computes from variables alone, and return the records of the other calls.

    Args:
        b: the graph under construction.
        nodes: the records of the calls of which a layer consists, in order.
        variables: the layer's variables by the id of the symbolic tensor that stands for each.
        outputs: the symbolic tensors that the layer returns.
        path: of the layer.
    """
    derived = _derived(nodes, variables)
    ids = {id(node) for node in derived}
    if not derived:
        return list(nodes)
    left = [node for node in nodes if id(node) not in ids]
    read = {id(t) for node in left for t in node.arguments.keras_tensors} | {id(t) for t in outputs}
    weights = {id(t) for node in left if type(node.operation).__name__ in _PRODUCTS for t in node.arguments.keras_tensors[1:2]}
    lifted = set()
    for node in derived:
        for tensor in node.outputs:
            behind = _behind(tensor, derived)
            if id(tensor) in read and _is_weight(tensor, behind, id(tensor) in weights):
                b.names[id(tensor)] = _constant(b, tensor, behind, variables, path)
                lifted.add(id(tensor))
    needed = {id(n) for t in read - lifted for n in _behind_id(t, derived)}
    return [node for node in nodes if id(node) not in ids or id(node) in needed]


def _derived(nodes: Iterable[Any], variables: Mapping[int, keras.Variable]) -> list[Any]:
    """Return the records of operations that variables alone take part in."""
    known, found = set(variables), []
    for node in nodes:
        read = [id(t) for t in node.arguments.keras_tensors]
        if read and known.issuperset(read) and not isinstance(node.operation, keras.layers.Layer):
            found.append(node)
            known.update(id(t) for t in node.outputs)
    return found


def _behind(tensor: Any, derived: Sequence[Any]) -> list[Any]:
    return _behind_id(id(tensor), derived)


def _behind_id(tensor: int, derived: Sequence[Any]) -> list[Any]:
    """Return the records that lead to a tensor, in order."""
    wanted, found = {tensor}, []
    for node in reversed(derived):
        if wanted & {id(t) for t in node.outputs}:
            found.append(node)
            wanted.update(id(t) for t in node.arguments.keras_tensors)
    return found[::-1]


def _is_weight(tensor: keras.KerasTensor, behind: Sequence[Any], is_operand: bool) -> bool:
    """Return whether a computed tensor becomes a parameter: of a variable that is only laid out anew, the weight of a product."""
    kinds = [_kind(node) for node in behind]
    if str(tensor.dtype) != "float32" or None in tensor.shape:
        return False
    is_turned = kinds == ["Transpose"] or (kinds == ["Swapaxes"] and len(tensor.shape) == 2)
    return any(kind not in _VIEWS for kind in kinds) or (is_operand and not is_turned)


def _kind(node: Any) -> str:
    """Return the name of an operation; of a look-up that is not all lines of a variable in their order, one of its own."""
    kind = type(node.operation).__name__
    if kind != "Take":
        return kind
    source = node.arguments.keras_tensors[0]
    indices = inspect.signature(node.operation.call).bind(*node.arguments.args, **node.arguments.kwargs).arguments["indices"]
    whole = node.operation.axis == 0 and np.array_equal(np.ravel(np.asarray(indices)), np.arange(source.shape[0]))
    return kind if whole else "LookUp"


def _constant(
    b: Builder, tensor: keras.KerasTensor, behind: Sequence[Any], variables: Mapping[int, keras.Variable], path: str
) -> str:
    """Add the weight that some operations compute, and return its tensor's name."""
    read = {id(t) for node in behind for t in node.arguments.keras_tensors}
    names = {key: b.param(variable, path) for key, variable in variables.items() if key in read}
    sources = tuple(dict.fromkeys(names.values()))
    steps = []
    for number, node in enumerate(behind):
        inputs = tuple(names[id(t)] for t in node.arguments.keras_tensors)
        outputs = tuple(f"{number}:{i}" for i in range(len(node.outputs)))
        names |= {id(t): name for t, name in zip(node.outputs, outputs, strict=True)}
        steps.append(Step(node.operation, with_placeholders(node.arguments), inputs, outputs))
    trained = [name for name in sources if name not in b.frozen]
    computed = WeightFunction(sources, tuple(steps), names[id(tensor)])
    name = b.compute((trained or sources)[0], computed, bool(trained))
    return b.emit("constant", [], tuple(tensor.shape), f"{path}/{name.rpartition('/')[2]}", {"value": name})


def separate_sources(b: Builder) -> None:
    """Give a variable that is read as it is, too, a name of its own there: a pass may scale what one reader reads."""
    sources = {name for computed in b.computed.values() for name in computed.sources} - b.frozen
    own: dict[str, str] = {}
    for index, op in enumerate(b.ops):
        for name in sources.intersection(op.params.values()) - own.keys():
            own[name] = b.compute(name, WeightFunction((name,), (), name), True)
        b.ops[index] = replace(op, params={role: own.get(name, name) for role, name in op.params.items()})

"""The activation of a layer: by name, a layer, or a function, which is called on a symbolic tensor to see what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from .affine import prelu
from .builder import Builder, Rule
from .elementwise import ARITHMETIC, FUNCTION_RULES, arithmetic, binary, celu, clip, divide, hard_tanh, relu, subtract
from .layer_calls import Call

#: ``keras.activations`` by name (they are ``keras.ops`` of the same meaning, too): kind and attributes.
_BY_NAME: dict[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("relu", {}),
    "relu6": ("relu6", {}),
    "sigmoid": ("sigmoid", {}),
    "tanh": ("tanh", {}),
    "silu": ("silu", {}),
    "gelu": ("gelu", {"approximate": False}),
    "hard_sigmoid": ("hard_sigmoid", {}),
    "hard_silu": ("hard_swish", {}),
    "leaky_relu": ("leaky_relu", {"alpha": 0.2}),
    "elu": ("elu", {"alpha": 1.0}),
    "selu": ("selu", {}),
    "softplus": ("softplus", {}),
    "mish": ("mish", {}),
    "exponential": ("exp", {}),
    "celu": ("elu", {"alpha": 1.0}),
    "hard_tanh": ("clamp", {"low": -1.0, "high": 1.0}),
}


def activated(b: Builder, name: str, c: Call) -> str:
    """Add the ``activation`` of a layer behind the tensor ``name``; one that has no kind keeps Keras' implementation."""
    function = c.layer.activation
    known = _activation(b, name, function, c)
    if known is not None:
        return known
    label = _name_of(function)
    layer = keras.layers.Activation(function, name=f"{c.path.replace('/', '_')}_{label}")
    return b.keep("float", layer, [name], [c.output], c.path, target=label)[0]


def activation_layer(b: Builder, c: Call) -> str | None:
    """``keras.layers.Activation``."""
    return _activation(b, c.inputs[0], c.layer.activation, c)


def is_of_each(function: Any) -> bool:
    """Return whether an activation is known to compute each number from one number."""
    return function is None or (_is_of_keras(function) and _name_of(function) in ("linear", *_BY_NAME))


def _is_of_keras(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("keras.")


def _name_of(function: Any) -> str:
    """Return an activation's name; None is the identity, and a callable object has the name of its class."""
    return "linear" if function is None else str(getattr(function, "__name__", type(function).__name__))


def _activation(b: Builder, name: str, function: Callable[..., Any] | None, c: Call) -> str | None:
    """Add an activation behind the tensor ``name``; None where it has no kind."""
    label, known = _name_of(function), _is_of_keras(function)
    if label == "linear":
        return name
    if known and label in _BY_NAME:
        kind, attrs = _BY_NAME[label]
        return b.emit(kind, [name], c.output, c.path, **attrs)
    if isinstance(function, keras.layers.Layer):
        rule = _rule_of(function, 1)
        return None if rule is None else rule(b, Call(function, (name,), c.output, c.path))
    return None if function is None or label == "softmax" else _computed(b, name, function, c)


#: The rules of what an activation may compute, by class.
_RULES: dict[str, Rule] = {
    **FUNCTION_RULES, "ReLU": relu, "PReLU": prelu, "Activation": activation_layer, "Add": binary("add"),
    "Multiply": binary("mul"), "Minimum": binary("minimum"), "Maximum": binary("maximum"), "Subtract": subtract,
    "Divide": divide, "TrueDivide": divide, "Clip": clip, "HardTanh": hard_tanh, "Celu": celu,
}  # fmt: skip


def _rule_of(operation: keras.Operation, inputs: int) -> Rule | None:
    kind = type(operation).__name__ if type(operation).__module__.startswith("keras.") else ""
    return arithmetic if kind in ARITHMETIC and inputs == 1 else _RULES.get(kind)


def _computed(b: Builder, name: str, function: Callable[..., Any], c: Call) -> str | None:
    """Add the operations that a function records of a symbolic tensor; None where one of them has no rule."""
    tensor = keras.KerasTensor(c.shape, c.output.dtype)
    try:
        recorded = keras.Function(tensor, function(tensor))
    except Exception:  # whatever the user's function raises: it may take tensors of TensorFlow alone
        return None
    depths = recorded._nodes_by_depth
    nodes = [node for depth in sorted(depths, reverse=True) for node in depths[depth] if not node.is_input]

    def added() -> str | None:
        names = {id(tensor): name}
        for node in nodes:
            read = node.arguments.keras_tensors
            rule = _rule_of(node.operation, len(read)) if len(node.outputs) == 1 else None
            call = Call(node.operation, tuple(names[id(t)] for t in read), node.outputs[0], c.path, node.arguments)
            made = rule(b, call) if rule is not None else None
            if made is None:
                return None
            names[id(call.output)] = made
        return names[id(recorded.outputs[0])]

    return b.attempt(added)

"""Capture of activations, and of arithmetic with numbers and arrays, to the neutral graph's kinds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

#: ``keras.activations`` by name (they are ``keras.ops`` of the same meaning, too): kind and arguments.
_ACTIVATIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
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
}

#: Operations of ``keras.ops`` by class, as :data:`_ACTIVATIONS`; an argument that is a string is an attribute of the operation.
_OPERATIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "Relu": ("relu", {}),
    "Relu6": ("relu6", {}),
    "Sigmoid": ("sigmoid", {}),
    "Tanh": ("tanh", {}),
    "Silu": ("silu", {}),
    "Gelu": ("gelu", {"approximate": "approximate"}),
    "HardSigmoid": ("hard_sigmoid", {}),
    "HardSilu": ("hard_swish", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": "negative_slope"}),
    "LeakyReLU": ("leaky_relu", {"alpha": "negative_slope"}),
    "Elu": ("elu", {"alpha": "alpha"}),
    "ELU": ("elu", {"alpha": "alpha"}),
    "Selu": ("selu", {}),
    "Softplus": ("softplus", {}),
    "Mish": ("mish", {}),
    "Exp": ("exp", {}),
    "Sqrt": ("sqrt", {}),
    "Rsqrt": ("rsqrt", {}),
    "Absolute": ("abs", {}),
    "Abs": ("abs", {}),
    "Square": ("square", {}),
}


def activation(b: Any, name: str, function: Any, output: Any, path: str) -> str | None:
    """Add what a layer's ``activation`` argument says; None where it has no kind."""
    known = str(getattr(function, "__module__", "")).startswith("keras.")
    found = _ACTIVATIONS.get(getattr(function, "__name__", "")) if known else None
    if found is None:
        return None
    kind, attrs = found
    emitted: str = b.emit(kind, [name], output, path, **attrs)
    return emitted


def operation(b: Any, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """Add an operation or layer that is a function of one tensor."""
    kind, named = _OPERATIONS[type(layer).__name__]
    attrs = {key: getattr(layer, value) if isinstance(value, str) else value for key, value in named.items()}
    attrs = {key: float(value) if key == "alpha" else value for key, value in attrs.items()}
    emitted: str = b.emit(kind, inputs, output, path, **attrs)
    return emitted


def _constant(b: Any, value: Any, output: Any, path: str) -> str | None:
    """Add a number or an array as a constant of the output's rank; None for what is neither."""
    if isinstance(value, (bool, str)) or value is None:
        return None
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value), np.float32)
    except (TypeError, ValueError):
        return None
    rank = len(output.shape)
    if array.ndim > rank or array.dtype != np.float32 or not np.isfinite(array).all():
        return None
    made: str = b.constant(array.reshape((1,) * (rank - array.ndim) + array.shape), path)
    return made


def arithmetic(b: Any, layer: Any, node: Any, output: Any, path: str) -> str | None:
    """Add an operation of ``keras.ops`` on a tensor and a number or array: +, -, *, and division by one."""
    arguments = _arguments(layer, node)
    if arguments is None or str(output.dtype) != "float32":
        return None
    left, right = arguments
    first = isinstance(left, keras.KerasTensor)
    tensor, other = (left, right) if first else (right, left)
    kind = type(layer).__name__
    if not isinstance(tensor, keras.KerasTensor) or isinstance(other, keras.KerasTensor) or tensor.shape != output.shape:
        return None
    if kind in ("Divide", "TrueDivide"):
        if not first or not np.all(np.asarray(other)):
            return None
        kind, other = "Multiply", 1.0 / np.asarray(other, np.float64)
    if kind == "Subtract" and first:
        kind, other = "Add", -np.asarray(other, np.float64)
    name: str = b.names[id(tensor)]
    if kind == "Subtract":
        minus = _constant(b, -1.0, output, path)
        name, kind = b.emit("mul", [name, minus], output, path), "Add"
    constant = _constant(b, other, output, path)
    return None if constant is None else b.emit({"Add": "add", "Multiply": "mul"}[kind], [name, constant], output, path)


def _arguments(layer: Any, node: Any) -> tuple[Any, Any] | None:
    """Return the two operands of an operation, however they were passed."""
    try:
        bound = inspect.signature(layer.call).bind(*node.arguments.args, **node.arguments.kwargs)
    except (TypeError, ValueError):
        return None
    values = list(bound.arguments.values())
    return (values[0], values[1]) if len(values) == 2 else None


def negated_difference(b: Any, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``a - b`` of two tensors is ``a + (-1) b``: the integers of ``-b`` are those of ``b``, so that nothing is lost."""
    if len(inputs) != 2 or any(b.specs[n].shape != tuple(output.shape) for n in inputs):
        return None
    minus = b.constant(np.full([1] * len(output.shape), -1.0, np.float32), path)
    emitted: str = b.emit("add", [inputs[0], b.emit("mul", [inputs[1], minus], output, path)], output, path)
    return emitted


#: By class name: the operations on one tensor.
OPERATIONS: dict[str, Callable[..., str | None]] = dict.fromkeys(_OPERATIONS, operation)
ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")

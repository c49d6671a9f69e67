"""The rules of functions of one tensor, and of arithmetic with tensors, numbers and arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from .builder import Builder, Rule, Shape
from .layer_calls import Call

#: Operations of ``keras.ops`` and layers by class: kind, and by attribute the name that the operation has for it.
_FUNCTIONS: dict[str, tuple[str, Mapping[str, str]]] = {
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
    "Erf": ("erf", {}),
    "Log": ("log", {}),
    "Log1p": ("log1p", {}),
    "Expm1": ("expm1", {}),
    "Reciprocal": ("reciprocal", {}),
    "Negative": ("neg", {}),
}

#: The types of the result of float32 and an array of the user's code, which the prepared model holds in float32.
_REAL = ("float32", "float64")

#: Operations of ``keras.ops`` that take a number or an array beside a tensor.
ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Power", "Maximum", "Minimum")


def relu(b: Builder, c: Call) -> str | None:
    """``keras.layers.ReLU`` that is a ReLU, a ReLU6 or a leaky ReLU."""
    layer = c.layer
    if layer.threshold or layer.max_value not in (None, 6) or (layer.negative_slope and layer.max_value):
        return None
    if layer.negative_slope:
        return b.emit("leaky_relu", c.inputs, c.output, c.path, alpha=float(layer.negative_slope))
    return b.emit("relu6" if layer.max_value else "relu", c.inputs, c.output, c.path)


def function(b: Builder, c: Call) -> str | None:
    """An operation or layer that is a function of one tensor."""
    kind, named = _FUNCTIONS[type(c.layer).__name__]
    attrs: dict[str, Any] = {key: getattr(c.layer, attribute) for key, attribute in named.items()}
    if "alpha" in attrs:
        attrs["alpha"] = float(attrs["alpha"])
    return b.emit(kind, c.inputs, c.output, c.path, **attrs)


#: The rules of functions of one tensor by class name.
FUNCTION_RULES: dict[str, Rule] = dict.fromkeys(_FUNCTIONS, function)


def binary(kind: str) -> Rule:
    """Return the rule of a sum or product of two or more tensors of one rank, which broadcast; variables may have a lower one."""

    def rule(b: Builder, c: Call) -> str | None:
        lower = [n for n in c.inputs if len(b.specs[n].shape) != len(c.shape) and not b.is_parameter(n)]
        if any(None in b.specs[n].shape for n in lower) or len(c.inputs) < 2:
            return None
        name, *others = (_of_rank(b, n, len(c.shape), c.path) if n in lower else n for n in c.inputs)
        for other in others:
            name = b.emit(kind, [name, other], _broadcast(b.specs[name].shape, b.specs[other].shape), c.path)
        return name

    return rule


def _of_rank(b: Builder, name: str, rank: int, path: str) -> str:
    """Give a tensor without a batch, such as a part of a parameter, a first axis of one, and others."""
    shape = b.specs[name].shape
    made = (*(1,) * (rank - len(shape)), *shape)
    return b.emit("reshape", [name], made, path, shape=(-1, *made[1:]), folds=True)


def _broadcast(a: Shape, b: Shape) -> Shape:
    rank = max(len(a), len(b))
    a, b = ((*(1,) * (rank - len(shape)), *shape) for shape in (a, b))
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def subtract(b: Builder, c: Call) -> str | None:
    """``a - b`` of two tensors is ``a + (-1) b``: the integers of ``-b`` are those of ``b``, so that nothing is lost."""
    if len(c.inputs) != 2 or any(len(b.specs[n].shape) != len(c.shape) or b.specs[n].dtype != "float32" for n in c.inputs):
        return None
    minus = b.constant(np.full([1] * len(c.shape), -1.0, np.float32), c.path)
    negated = b.emit("mul", [c.inputs[1], minus], b.specs[c.inputs[1]].shape, c.path)
    return b.emit("add", [c.inputs[0], negated], c.output, c.path)


def divide(b: Builder, c: Call) -> str | None:
    """``a / b`` of two tensors: a piece of a function perhaps, see :mod:`qat.graph.recognition`."""
    return b.computes("div", c) if len(c.inputs) == 2 and not c.arguments.kwargs else None


def arithmetic(b: Builder, c: Call) -> str | None:
    """An operation of ``keras.ops`` on a tensor and a number or array: +, -, *, and division by one."""
    operands = _operands(c)
    if operands is None or any(b.specs[name].dtype != "float32" for name in c.inputs) or str(c.output.dtype) not in _REAL:
        return None
    left, right = operands
    tensor_first = isinstance(left, keras.KerasTensor)
    tensor, other = (left, right) if tensor_first else (right, left)
    kind = type(c.layer).__name__
    if not isinstance(tensor, keras.KerasTensor) or isinstance(other, keras.KerasTensor):
        return None
    spreads = tensor.shape != c.output.shape  # over the axes of an array
    if spreads and (len(tensor.shape) != len(c.shape) or kind not in ("Add", "Subtract", "Multiply")):
        return None
    if kind in _WITH_NUMBER:
        return _WITH_NUMBER[kind](b, c, float(other)) if np.ndim(other) == 0 and (tensor_first or kind != "Power") else None
    if kind in ("Divide", "TrueDivide") and not tensor_first:
        inverse = b.emit("reciprocal", [c.inputs[0]], c.output, c.path)
        scale = _constant(b, other, c)
        return None if scale is None else b.emit("mul", [inverse, scale], c.output, c.path)
    if kind in ("Divide", "TrueDivide"):
        if not np.all(np.asarray(other)):
            return None
        kind, other = "Multiply", 1.0 / np.asarray(other, np.float64)
    if kind == "Subtract" and tensor_first:
        kind, other = "Add", -np.asarray(other, np.float64)
    name = c.inputs[0]
    if kind == "Subtract":
        minus = b.constant(np.full([1] * len(c.shape), -1.0, np.float32), c.path)
        name, kind = b.emit("mul", [name, minus], tuple(tensor.shape), c.path), "Add"
    constant = _constant(b, other, c)
    return None if constant is None else b.emit({"Add": "add", "Multiply": "mul"}[kind], [name, constant], c.output, c.path)


def _power(b: Builder, c: Call, exponent: float) -> str:
    kind = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}.get(exponent)
    attrs: dict[str, Any] = {} if kind else {"exponent": exponent}
    return b.emit(kind or "power", c.inputs, c.output, c.path, **attrs)


def clip(b: Builder, c: Call) -> str | None:
    """``keras.ops.clip`` between two numbers."""
    limits = c.layer.x_min, c.layer.x_max
    if b.specs[c.inputs[0]].dtype != "float32" or not all(isinstance(end, (int, float)) for end in limits):
        return None
    return _clamp(b, c, *map(float, limits))


def _clamp(b: Builder, c: Call, low: float | None, high: float | None) -> str:
    if low == 0 and high in (None, 6):
        return b.emit("relu6" if high else "relu", c.inputs, c.output, c.path)
    return b.emit("clamp", c.inputs, c.output, c.path, low=low, high=high)


def hard_tanh(b: Builder, c: Call) -> str | None:
    """``keras.ops.hard_tanh``: a clamp."""
    return _clamp(b, c, -1.0, 1.0)


def celu(b: Builder, c: Call) -> str | None:
    """``keras.ops.celu`` of alpha 1, which is an ELU."""
    return b.emit("elu", c.inputs, c.output, c.path, alpha=1.0) if c.layer.alpha == 1 else None


#: Operations of a tensor and one number that are functions of the tensor.
_WITH_NUMBER: dict[str, Callable[[Builder, Call, float], str]] = {
    "Power": _power,
    "Maximum": lambda b, c, number: _clamp(b, c, number, None),
    "Minimum": lambda b, c, number: _clamp(b, c, None, number),
}


def _operands(c: Call) -> tuple[Any, Any] | None:
    """Return the two operands of an operation, however they were passed."""
    try:
        bound = inspect.signature(c.layer.call).bind(*c.arguments.args, **c.arguments.kwargs)
    except (TypeError, ValueError):
        return None
    values = list(bound.arguments.values())
    return (values[0], values[1]) if len(values) == 2 else None


def _constant(b: Builder, value: Any, c: Call) -> str | None:
    """Add a number or an array as a constant of the output's rank; None for any other value."""
    if isinstance(value, (bool, str)) or value is None:
        return None
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value), np.float32)
    except (TypeError, ValueError):
        return None
    rank = len(c.shape)
    if array.ndim > rank or not np.isfinite(array).all():
        return None
    return b.constant(array.reshape((1,) * (rank - array.ndim) + array.shape), c.path)

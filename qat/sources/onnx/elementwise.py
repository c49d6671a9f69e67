"""Functions of one number, and of two or more that are broadcast."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .operator import Known, Operand, Operator, Result, Row, Rows, Size

#: Whose result has the type of the operands.
_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv)


def of_one(function: Callable[..., Any]) -> Row:
    """Return the row of a function of each number, which stays of its type."""
    return lambda n: n.call_like(n[0], function, n[0])


def plain(n: Operator, operand: Operand, beside: Operand) -> Any:
    """Return an operand; one number that changes no shape as that number, so that the capture sees it."""
    if isinstance(beside, Known) and not beside.symbolic:
        return operand
    if isinstance(operand, Known) and operand.array.size == 1 and operand.array.ndim <= n.rank(beside):
        number = operand.array.reshape(-1)[0]
        return number if isinstance(number, Size) else number.item()
    return operand


def pair(n: Operator, function: Callable[..., Any], a: Operand, b: Operand) -> Operand:
    """Call a function of two operands that Python has a sign for: one of them may be a number."""
    first, second = plain(n, a, b), plain(n, b, a)
    if function in _ARITHMETIC:
        for x, number in ((first, second), (second, first)):
            if isinstance(number, (int, float)):
                return n.call_like(x, function, first, second)
    return n.call(function, first, second)


def of_two(function: Callable[..., Any]) -> Row:
    """Return the row of a function of two tensors."""
    return lambda n: pair(n, function, n[0], n[1])


def of_tensors(function: Callable[..., Any]) -> Row:
    """Return the row of a function of two tensors that takes no numbers."""
    return lambda n: n.call(function, n[0], n[1])


def _div(n: Operator) -> Result:
    """Integers are divided towards zero."""
    if n.is_float(n[0]):
        return pair(n, operator.truediv, n[0], n[1])
    return n.call(torch.div, n[0], plain(n, n[1], n[0]), rounding_mode="trunc")


def _mod(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Mod.html: the sign is the divisor's, or with ``fmod`` the dividend's."""
    return n.call(torch.fmod if n.attr("fmod", 0) else torch.remainder, n[0], plain(n, n[1], n[0]))


def _pow(n: Operator) -> Result:
    base, exponent = n[0], plain(n, n[1], n[0])
    if isinstance(exponent, float) and exponent == int(exponent):
        exponent = int(exponent)
    y = n.call(torch.pow, base, exponent)
    return y if n.dtype(y) == n.dtype(base) else n.call(torch.Tensor.to, y, n.dtype(base))


def _clip(n: Operator) -> Result:
    """Limits are attributes before opset 11, inputs from then on."""
    low, high = (n.attr(name, n.number(i)) for name, i in (("min", 1), ("max", 2)))
    unlimited = (None, -math.inf, math.inf, float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
    low, high = (None if limit in unlimited else limit for limit in (low, high))
    if low is None and high is None:
        return n[0]
    x = n[0]
    return n.call_like(x, torch.relu, x) if (low, high) == (0, None) else n.call_like(x, torch.clamp, x, low, high)


def _extreme(function: Callable[..., Any], limit: str) -> Row:
    """Return the row of a maximum or minimum of any number of tensors."""

    def of(n: Operator, a: Operand, b: Operand) -> Operand:
        first, second = plain(n, a, b), plain(n, b, a)
        for x, number in ((first, second), (second, first)):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                return n.call(torch.clamp, x, **{limit: number})
        return n.call(function, a, b)

    return lambda n: functools.reduce(lambda a, b: of(n, a, b), [n[i] for i in range(len(n.inputs))])


def _sum(n: Operator) -> Operand:
    return functools.reduce(lambda a, b: pair(n, operator.add, a, b), [n[i] for i in range(len(n.inputs))])


def _mean(n: Operator) -> Result:
    return n.call(operator.truediv, _sum(n), len(n.inputs))


def _hard_sigmoid(n: Operator) -> Result:
    alpha, beta = n.attr("alpha", 0.2), n.attr("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return n.call(F.hardsigmoid, n[0])
    return n.call(torch.clamp, n.call(operator.add, n.call(operator.mul, n[0], alpha), beta), 0.0, 1.0)


def _selu(n: Operator) -> Result:
    alpha, gamma = n.attr("alpha", 1.67326319217681884765625), n.attr("gamma", 1.05070102214813232421875)
    if math.isclose(alpha, 1.6732632, rel_tol=1e-5) and math.isclose(gamma, 1.0507010, rel_tol=1e-5):
        return n.call(F.selu, n[0])
    return n.call(operator.mul, n.call(F.elu, n[0], alpha), gamma)


def _prelu(n: Operator) -> Result:
    """One slope a channel is PyTorch's PReLU; slopes of other shapes are a choice between two products."""
    x, slope = n[0], n[1]
    if isinstance(slope, Known):
        sizes, channels = slope.array.shape, n.shape(x)[1] if n.rank(x) > 1 else 1
        if slope.array.size == 1:
            return n.call(F.leaky_relu, x, slope.array.reshape(-1)[0].item())
        along = max(n.rank(x) - len(sizes), 0) + next(i for i, size in enumerate(sizes) if size > 1)
        if slope.array.size == channels and along == 1:
            return n.call(F.prelu, x, Known(slope.name, slope.array.reshape(-1), slope.trained))
    below = n.call(torch.mul, n.call(torch.clamp, x, max=0.0), slope)
    return n.call(torch.add, n.call(torch.relu, x), below)


def _thresholded_relu(n: Operator) -> Result:
    return n.call(F.threshold, n[0], n.attr("alpha", 1.0), 0.0)


def _shrink(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Shrink.html."""
    x, limit, bias = n[0], n.attr("lambd", 0.5), n.attr("bias", 0.0)
    low = n.call(torch.where, n.call(torch.lt, x, -limit), n.call(operator.add, x, bias), 0.0)
    return n.call(torch.where, n.call(torch.gt, x, limit), n.call(operator.sub, x, bias), low)


def _swish(n: Operator) -> Result:
    alpha = n.attr("alpha", 1.0)
    if alpha == 1:
        return n.call(F.silu, n[0])
    return n.call(torch.mul, n[0], n.call(torch.sigmoid, n.call(operator.mul, n[0], alpha)))


def _is_inf(n: Operator) -> Result:
    negative, positive = n.attr("detect_negative", 1), n.attr("detect_positive", 1)
    if negative and positive:
        return n.call(torch.isinf, n[0])
    return n.call(torch.isposinf if positive else torch.isneginf, n[0])


def _where(n: Operator) -> Result:
    a, b = n[1], n[2]
    return n.call(torch.where, n[0], plain(n, a, b), plain(n, b, a))


ROWS: Rows = {
    "Abs": of_one(torch.abs), "Acos": of_one(torch.acos), "Acosh": of_one(torch.acosh), "Asin": of_one(torch.asin),
    "Asinh": of_one(torch.asinh), "Atan": of_one(torch.atan), "Atanh": of_one(torch.atanh), "Ceil": of_one(torch.ceil),
    "Cos": of_one(torch.cos), "Cosh": of_one(torch.cosh), "Erf": of_one(torch.erf), "Exp": of_one(torch.exp),
    "Floor": of_one(torch.floor), "HardSwish": of_one(F.hardswish), "Log": of_one(torch.log),
    "Mish": of_one(F.mish), "Neg": of_one(torch.neg), "Not": of_one(torch.logical_not), "Reciprocal": of_one(torch.reciprocal),
    "Relu": of_one(torch.relu), "Round": of_one(torch.round), "Sigmoid": of_one(torch.sigmoid), "Sign": of_one(torch.sign),
    "Sin": of_one(torch.sin), "Sinh": of_one(torch.sinh), "Softplus": of_one(F.softplus), "Softsign": of_one(F.softsign),
    "Sqrt": of_one(torch.sqrt), "Tan": of_one(torch.tan), "Tanh": of_one(torch.tanh),
    "Elu": lambda n: n.call(F.elu, n[0], n.attr("alpha", 1.0)),
    "Celu": lambda n: n.call(F.celu, n[0], n.attr("alpha", 1.0)),
    "Gelu": lambda n: n.call(F.gelu, n[0], approximate=n.attr("approximate", "none")),
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": lambda n: n.call(F.leaky_relu, n[0], n.attr("alpha", 0.01)),
    "Selu": _selu,
    "PRelu": _prelu,
    "Shrink": _shrink,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
    "Clip": _clip,
    "IsInf": _is_inf,
    "IsNaN": lambda n: n.call(torch.isnan, n[0]),
    "Add": of_two(operator.add),
    "Sub": of_two(operator.sub),
    "Mul": of_two(operator.mul),
    "Div": _div,
    "Mod": _mod,
    "Pow": _pow,
    "And": of_tensors(torch.logical_and),
    "Or": of_tensors(torch.logical_or),
    "Xor": of_tensors(torch.logical_xor),
    "Equal": of_two(operator.eq),
    "Greater": of_two(operator.gt),
    "GreaterOrEqual": of_two(operator.ge),
    "Less": of_two(operator.lt),
    "LessOrEqual": of_two(operator.le),
    "Max": _extreme(torch.maximum, "min"),
    "Min": _extreme(torch.minimum, "max"),
    "Sum": _sum,
    "Mean": _mean,
    "Where": _where,
}  # fmt: skip

"""Normalizations, and the softmaxes, whose meaning changed in opset 13."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .operator import Known, Operand, Operator, Result, Row, Rows


def _statistics(n: Operator, index: int) -> Operand:
    """Return a mean or variance, which is not trained."""
    operand = n[index]
    return Known(operand.name, operand.array) if isinstance(operand, Known) else operand


def _batch_norm(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html."""
    if n.attr("training_mode", 0):
        n.refuse("is in training mode", "export the model in eval mode")
    if not n.attr("spatial", 1):
        n.refuse("has one mean for each pixel (spatial=0)", "convert the file to opset 9 or newer by onnx.version_converter")
    mean, variance = _statistics(n, 3), _statistics(n, 4)
    x = n[0]
    return [
        n.call_like(x, F.batch_norm, x, mean, variance, n[1], n[2], False, 0.0, n.attr("epsilon", 1e-5)),
        None,
        None,
        None,
        None,
    ]


def _instance_norm(n: Operator) -> Result:
    return n.call(F.instance_norm, n[0], None, None, n[1], n[2], True, 0.0, n.attr("epsilon", 1e-5))


def layer_norm(n: Operator, x: Operand, weight: Operand | None, bias: Operand | None, axis: int, epsilon: float) -> Operand:
    """Write a LayerNorm over the axes from ``axis`` on."""
    shape = n.fixed_from(x, n.axis(x, axis))
    return n.call(F.layer_norm, x, shape, _of_shape(n, weight, shape), _of_shape(n, bias, shape), epsilon)


def _of_shape(n: Operator, operand: Operand | None, shape: list[int]) -> Operand | None:
    if isinstance(operand, Known) and list(operand.array.shape) != shape:
        return Known(operand.name, np.broadcast_to(operand.array, shape).copy(), operand.trained)
    return operand


def _layer_norm(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html."""
    return [layer_norm(n, n[0], n.get(1), n.get(2), n.attr("axis", -1), n.attr("epsilon", 1e-5)), None, None]


def _rms_norm(n: Operator) -> Result:
    shape = n.fixed_from(n[0], n.axis(n[0], n.attr("axis", -1)))
    return [n.call(F.rms_norm, n[0], shape, _of_shape(n, n.get(1), shape), n.attr("epsilon", 1e-5)), None]


def _group_norm(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__GroupNormalization.html: scales are of groups before opset 21."""
    groups, channels = n.attr("num_groups"), n.fixed_from(n[0], 1)[0] if n.rank(n[0]) == 2 else n.shape(n[0])[1]
    scales = []
    for index in (1, 2):
        operand = n[index]
        if isinstance(operand, Known) and operand.array.size == groups != channels:
            operand = Known(operand.name, np.repeat(operand.array, channels // groups), operand.trained)
        scales.append(operand)
    return n.call(F.group_norm, n[0], groups, *scales, n.attr("epsilon", 1e-5))


def _lrn(n: Operator) -> Result:
    if n.attr("size") % 2 == 0:
        n.refuse("has a window of even size, which PyTorch centres elsewhere")
    return n.call(F.local_response_norm, n[0], n.attr("size"), n.attr("alpha", 1e-4), n.attr("beta", 0.75), n.attr("bias", 1.0))


def _lp_norm(n: Operator) -> Result:
    return n.call(F.normalize, n[0], float(n.attr("p", 2)), n.attr("axis", -1), 0.0)


def _softmax(function: Callable[..., Any]) -> Row:
    """Return the row of a softmax.

    Source: https://onnx.ai/onnx/operators/onnx__Softmax.html: before opset 13 all axes from ``axis`` on (1 by default) count as
    one, from then on ``axis`` alone (-1 by default).
    """

    def row(n: Operator) -> Result:
        x, rank = n[0], n.rank(n[0])
        if n.opset >= 13:
            return n.call(function, x, n.attr("axis", -1))
        axis, shape = n.axis(x, n.attr("axis", 1)), n.shape(x)
        if axis == rank - 1 or (
            all(size == 1 for size in shape[axis + 1 :] if isinstance(size, int))
            and all(isinstance(size, int) for size in shape[axis + 1 :])
        ):
            return n.call(function, x, axis)
        flat = n.call(torch.flatten, x, axis)
        return n.call(torch.reshape, n.call(function, flat, axis), shape)

    return row


def _hardmax(n: Operator) -> Result:
    axis = n.axis(n[0], n.attr("axis", -1 if n.opset >= 13 else 1))
    if n.opset < 13 and axis != n.rank(n[0]) - 1:
        n.refuse("is over several axes", "convert the file to opset 13 by onnx.version_converter")
    index = n.call(torch.argmax, n[0], axis, True)
    return n.call(torch.Tensor.scatter, n.call(torch.zeros_like, n[0]), axis, index, 1.0)


def _mean_variance(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html."""
    axes = list(n.attr("axes", (0, 2, 3)))
    centred = n.call(torch.sub, n[0], n.call(torch.mean, n[0], axes, True))
    deviation = n.call(torch.sqrt, n.call(torch.mean, n.call(torch.square, centred), axes, True))
    return n.call(torch.div, centred, n.call(operator.add, deviation, 1e-9))


ROWS: Rows = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,  # by ONNX Runtime, in ONNX's own domain
    "GroupNormalization": _group_norm,
    "LRN": _lrn,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Hardmax": _hardmax,
}

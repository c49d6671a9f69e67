"""Reductions and normalizations over axes.

tensorflow/lite/kernels/{reduce,softmax,log_softmax,l2norm,local_response_norm,arg_min_max,cumsum}.cc.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .flatbuffer import Operator
from .importer import Importer, Row, torch_type
from .laid import Laid, channels_first, in_file_order


def _reduction(function: Callable[..., object], *, several: bool = True) -> Row:
    """Return the row of a reduction; one that takes a single axis at a time is written once for each."""

    def row(b: Importer, op: Operator) -> Laid:
        x, keep = b.laid(op, 0), bool(op.options.keepDims)
        axes = b.integers(op, 1) or list(range(x.rank))
        dims = sorted({x.axis(a) for a in axes})
        value = x.value
        if several:
            value = b.call(function, value, dims, keep)
        else:
            for dim in reversed(dims):
                value = b.call(function, value, dim, keep)
        return Laid(value, x.order if keep else x.without(axes))

    return row


def _softmax(function: Callable[..., object]) -> Row:
    def row(b: Importer, op: Operator) -> Laid:
        x, beta = b.plain(op, 0), float(getattr(op.options, "beta", 1.0))
        scaled = x if beta == 1 else b.call(operator.mul, x, beta)
        return in_file_order(b.call(function, scaled, -1))

    return row


def _l2_normalization(b: Importer, op: Operator) -> Laid:
    """L2_NORMALIZATION: of the last axis, by its length, which is at least 1e-6."""
    x = b.laid(op, 0)
    return Laid(b.activated(b.call(F.normalize, x.value, 2.0, x.axis(-1), 1e-6), op), x.order)


def _local_response_norm(b: Importer, op: Operator) -> Laid:
    """LOCAL_RESPONSE_NORMALIZATION: ``x / (bias + alpha * sum(x^2))^beta``; PyTorch's ``alpha`` is that of a mean."""
    o, image = op.options, b.image(op, 0)
    size = 2 * int(o.radius) + 1
    value = b.call(F.local_response_norm, image, size, float(o.alpha) * size, float(o.beta), float(o.bias))
    return Laid(value, channels_first(len(image.shape)))


def _extreme(function: Callable[..., object]) -> Row:
    def row(b: Importer, op: Operator) -> Laid:
        x, (axis,) = b.laid(op, 0), b.integers(op, 1)
        index = b.call(function, x.value, x.axis(axis))
        dtype = torch_type(b.graph.tensors[op.outputs[0]])
        return Laid(b.call(torch.Tensor.to, index, dtype) if dtype != torch.int64 else index, x.without([axis]))

    return row


def _cumsum(b: Importer, op: Operator) -> Laid:
    x, (axis,) = b.laid(op, 0), b.integers(op, 1)
    dim, value = x.axis(axis), x.value
    if op.options.reverse:
        value = b.call(torch.flip, value, [dim])
    total = b.call(torch.cumsum, value, dim)
    if op.options.exclusive:
        total = b.call(operator.sub, total, value)
    return Laid(b.call(torch.flip, total, [dim]) if op.options.reverse else total, x.order)


ROWS: dict[str, Row] = {
    "MEAN": _reduction(torch.mean),
    "SUM": _reduction(torch.sum),
    "REDUCE_MAX": _reduction(torch.amax),
    "REDUCE_MIN": _reduction(torch.amin),
    "REDUCE_PROD": _reduction(torch.prod, several=False),
    "REDUCE_ANY": _reduction(torch.any),
    "REDUCE_ALL": _reduction(torch.all),
    "SOFTMAX": _softmax(torch.softmax),
    "LOG_SOFTMAX": _softmax(torch.log_softmax),
    "L2_NORMALIZATION": _l2_normalization,
    "LOCAL_RESPONSE_NORMALIZATION": _local_response_norm,
    "ARG_MAX": _extreme(torch.argmax),
    "ARG_MIN": _extreme(torch.argmin),
    "CUMSUM": _cumsum,
}

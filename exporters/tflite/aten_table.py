"""Core ATen operators in TensorFlow: a line each. Images are ``NCHW`` here, as PyTorch's operators take them.

Names and arguments: https://docs.pytorch.org/docs/stable/torch.compiler_ir.html.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import torch

aten = torch.ops.aten
Tensor = Any


# --- shapes --------------------------------------------------------------------------------------------------------------


def _view(x: Tensor, shape: list[Any]) -> Tensor:
    """Reshape; the batch, the only size that is not fixed, is what is left over."""
    return tf.reshape(x, [n if isinstance(n, int) else -1 for n in shape])


def _expand(x: Tensor, shape: list[Any]) -> Tensor:
    rank = len(shape) - len(x.shape)
    have = [1] * rank + list(x.shape)
    x = tf.reshape(x, [1 if n == 1 else -1 if n is None else n for n in have]) if rank else x
    # What is not a number is the batch, which an operand has already, or has one of.
    repeats = [n if isinstance(n, int) and n != -1 and have[i] == 1 else 1 for i, n in enumerate(shape)]
    if have[0] == 1 and not isinstance(shape[0], int):
        repeats[0] = shape[0]
    return tf.tile(x, repeats) if any(not isinstance(n, int) or n != 1 for n in repeats) else x


def _slice(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    end = None if isinstance(end, int) and end > 2**31 - 1 else end
    return x[(slice(None),) * (dim % len(x.shape)) + (slice(start, end, step),)]


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    return x[(slice(None),) * (dim % len(x.shape)) + (index,)]


def _swap(x: Tensor, a: int, b: int) -> Tensor:
    axes = list(range(len(x.shape)))
    axes[a], axes[b] = axes[b], axes[a]
    return tf.transpose(x, axes)


def _squeeze(x: Tensor, dims: Any) -> Tensor:
    dims = [dims] if isinstance(dims, int) else dims
    return tf.squeeze(x, [d for d in dims if x.shape[d] == 1])


def _pad(x: Tensor, amounts: list[int], value: float = 0.0) -> Tensor:
    """Pad, or cut where an amount is negative; the last axis comes first in ``amounts``."""
    both = [(0, 0)] * (len(x.shape) - len(amounts) // 2) + list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    cut = tuple(slice(max(-low, 0), -max(-high, 0) or None) for low, high in both)
    return tf.pad(x[cut], [(max(low, 0), max(high, 0)) for low, high in both], constant_values=tf.cast(value, x.dtype))


def _split(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    return tf.split(x, sizes, dim)


def _index(x: Tensor, dim: int, indices: Tensor) -> Tensor:
    return tf.gather(x, indices, axis=dim)


def _index_by_one(x: Tensor, indices: list[Tensor | None]) -> Tensor:
    ((axis, places), *others) = [(i, given) for i, given in enumerate(indices) if given is not None]
    if others or places.dtype == tf.bool:
        raise NotImplementedError("indexing by a mask, or by several tensors at once")
    return _index(x, axis, places)


# --- images --------------------------------------------------------------------------------------------------------------


def _last(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a function of images ``NHWC`` to ones ``NCHW``: TFLite has no other kernels."""
    return lambda x: tf.transpose(function(tf.transpose(x, [0, 2, 3, 1])), [0, 3, 1, 2])


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any,
    groups: int,
) -> Tensor:  # fmt: skip
    """A convolution of images; a grouped one by its groups, a depthwise one as such."""
    if len(x.shape) > 4:
        raise NotImplementedError("a float convolution of volumes")
    if len(x.shape) == 3:
        image, kernel = x[:, :, None], weight[:, :, None]
        y = _convolution(image, kernel, bias, [1, *stride], [0, *padding], [1, *dilation], transposed, [0, *extra], groups)
        return y[:, :, 0]
    if transposed:
        return _transposed(x, weight, bias, stride, padding, dilation, extra, groups)
    pads = [(0, 0), *((p, p) for p in padding), (0, 0)]
    options = {"strides": [1, *stride, 1], "padding": "VALID", "dilations": list(dilation)}

    def apply(x: Tensor) -> Tensor:
        x = tf.pad(x, pads)
        if groups > 1 and weight.shape[1] == 1:
            out, multiplier = weight.shape[0], weight.shape[0] // groups
            kernel = tf.reshape(tf.transpose(weight, [2, 3, 0, 1]), [*weight.shape[2:], out // multiplier, multiplier])
            return tf.nn.depthwise_conv2d(x, kernel, **options)
        parts = zip(tf.split(x, groups, -1), tf.split(weight, groups, 0), strict=True)
        return tf.concat([tf.nn.conv2d(a, tf.transpose(w, [2, 3, 1, 0]), **options) for a, w in parts], -1)

    y = _last(apply)(x)
    return y if bias is None else y + tf.reshape(bias, [1, -1, 1, 1])


def _transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, extra: Any, groups: int
) -> Tensor:
    """A transposed convolution of images: the full result, cut, or with zeros added where an output padding asks for more."""
    if list(dilation) != [1, 1]:
        raise NotImplementedError("a float transposed convolution with dilation")
    full = [s * (size - 1) + k for s, size, k in zip(stride, x.shape[2:], weight.shape[2:], strict=True)]

    def apply(x: Tensor) -> Tensor:
        shape = [tf.shape(x)[0], *full, weight.shape[1]]
        parts = zip(tf.split(x, groups, -1), tf.split(weight, groups, 0), strict=True)
        y = tf.concat(
            [tf.nn.conv2d_transpose(a, tf.transpose(w, [2, 3, 1, 0]), shape, list(stride), "VALID") for a, w in parts], -1
        )
        ends = [size + e - p for size, e, p in zip(full, extra, padding, strict=True)]
        y = tf.pad(y, [(0, 0), *((0, max(end - size, 0)) for size, end in zip(full, ends, strict=True)), (0, 0)])
        return y[:, padding[0] : ends[0], padding[1] : ends[1]]

    y = _last(apply)(x)
    return y if bias is None else y + tf.reshape(bias, [1, -1, 1, 1])


def _pair(n: Any) -> list[int]:
    values = [n] if isinstance(n, int) else list(n)
    return values * 2 if len(values) == 1 else values


def _max_pool(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> list[Tensor]:
    if ceil or _pair(dilation) != [1, 1]:
        raise NotImplementedError("a float max pooling with ceil_mode or dilation")
    pads = [(0, 0), *((p, p) for p in _pair(padding)), (0, 0)]
    lowest = x.dtype.min
    pool = lambda v: tf.nn.max_pool2d(tf.pad(v, pads, constant_values=lowest), _pair(kernel), _pair(stride or kernel), "VALID")  # noqa: E731
    return [_last(pool)(x)]


def _avg_pool(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, padded: bool = True, divisor: Any = None
) -> Tensor:
    """Average with padding counted, or over the elements inside."""
    if ceil or divisor is not None:
        raise NotImplementedError("a float average pooling with ceil_mode or divisor_override")
    pads = [(0, 0), *((p, p) for p in _pair(padding)), (0, 0)]
    average = lambda v: tf.nn.avg_pool2d(tf.pad(v, pads), _pair(kernel), _pair(stride or kernel), "VALID")  # noqa: E731
    y = _last(average)(x)
    return y if padded else y / _last(average)(tf.ones([1, 1, *x.shape[2:]]))


def _adaptive_avg_pool(x: Tensor, size: Any) -> Tensor:
    if any(n % m for n, m in zip(x.shape[2:], size, strict=True)):
        raise NotImplementedError("an adaptive pooling whose windows are not of one size")
    kernel = [n // m for n, m in zip(x.shape[2:], size, strict=True)]
    return _avg_pool(x, kernel)


def _resize(method: str) -> Callable[..., Tensor]:
    def resize(x: Tensor, size: Any = None, *options: Any) -> Tensor:
        aligned = bool(options[0]) if method == "bilinear" else False
        scales = next((o for o in options if isinstance(o, list)), None)
        size = size or [int(n * s) for n, s in zip(x.shape[2:], scales or [], strict=True)]
        raw = tf.raw_ops.ResizeBilinear if method == "bilinear" else tf.raw_ops.ResizeNearestNeighbor
        halves = method == "bilinear" and not aligned
        return _last(lambda v: raw(images=v, size=size, align_corners=aligned, half_pixel_centers=halves))(x)

    return resize


# --- normalization -------------------------------------------------------------------------------------------------------


def _layer_norm(x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> list[Tensor]:
    axes = list(range(-len(shape), 0))
    mean = tf.reduce_mean(x, axes, keepdims=True)
    y = (x - mean) * tf.math.rsqrt(tf.reduce_mean(tf.square(x - mean), axes, keepdims=True) + epsilon)
    y = y if weight is None else y * weight
    return [y if bias is None else y + bias]


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, epsilon: float
) -> list[Tensor]:
    along = lambda v: tf.reshape(v, [1, -1, *[1] * (len(x.shape) - 2)])  # noqa: E731
    y = (x - along(mean)) * along(tf.math.rsqrt(variance + epsilon))
    y = y if weight is None else y * along(weight)
    return [y if bias is None else y + along(bias)]


def _instance_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, epsilon: float
) -> list[Tensor]:
    """Normalize by the statistics of all axes but the channels'; an instance norm has its samples among them."""
    axes = [0, *range(2, len(x.shape))]
    mean, variance = tf.nn.moments(x, axes)
    return _batch_norm(x, weight, bias, mean, variance, momentum, epsilon)


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: Any, channels: int, pixels: int, groups: int, epsilon: float
) -> list[Tensor]:
    flat = tf.reshape(x, [-1, groups, channels // groups * pixels])
    (y,) = _layer_norm(flat, [channels // groups * pixels], None, None, epsilon)
    y = tf.reshape(y, [-1, *x.shape[1:]])
    along = lambda v: tf.reshape(v, [1, -1, *[1] * (len(x.shape) - 2)])  # noqa: E731
    y = y if weight is None else y * along(weight)
    return [y if bias is None else y + along(bias)]


# --- arithmetic ----------------------------------------------------------------------------------------------------------


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Apply a function of two operands, one of which may be a number; ``alpha`` multiplies the second."""

    def apply(a: Tensor, b: Tensor, alpha: float = 1) -> Tensor:
        dtype = next(v.dtype for v in (a, b) if hasattr(v, "dtype"))
        a, b = (tf.cast(v, dtype) for v in (a, b))
        return function(a, b if alpha == 1 else b * tf.cast(alpha, dtype))

    return apply


def _clamp(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    x = x if low is None else tf.maximum(x, tf.cast(low, x.dtype))
    return x if high is None else tf.minimum(x, tf.cast(high, x.dtype))


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
        return function(x, dim if dim != [] else None, keepdims=keepdim)

    return apply


def _variance(x: Tensor, dim: Any = None, *, correction: float = 1, keepdim: bool = False) -> Tensor:
    count = int(np.prod([x.shape[d] for d in (range(len(x.shape)) if dim is None else dim)]))
    return tf.math.reduce_variance(x, dim, keepdims=keepdim) * (count / (count - (1 if correction is None else correction)))


def _norm(x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    if order not in (1, 2):
        raise NotImplementedError(f"a norm of order {order}")
    total = tf.reduce_sum(tf.abs(x) if order == 1 else tf.square(x), dim, keepdims=keepdim)
    return total if order == 1 else tf.sqrt(total)


def _extreme(value: Callable[..., Tensor], place: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    return lambda x, dim, keepdim=False: [value(x, dim, keepdims=keepdim), place(x, dim)]


ATEN: dict[Any, Callable[..., Any]] = {
    # shapes
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten.expand.default: _expand,
    aten.permute.default: tf.transpose,
    aten.transpose.int: _swap,
    aten.t.default: tf.transpose,
    aten.unsqueeze.default: tf.expand_dims,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.cat.default: lambda xs, dim=0: tf.concat(xs, dim),
    aten.split_with_sizes.default: _split,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.repeat.default: lambda x, repeats: tf.tile(x, repeats),
    aten.flip.default: tf.reverse,
    aten.constant_pad_nd.default: _pad,
    aten.index_select.default: _index,
    aten.index.Tensor: _index_by_one,
    aten.embedding.default: lambda weight, indices, *_: tf.gather(weight, indices),
    aten.sym_size.int: lambda x, dim: x.shape[dim] if x.shape[dim] is not None else tf.shape(x)[dim],
    # the same values
    aten.clone.default: lambda x, **_: x,
    aten.alias.default: lambda x: x,
    aten.detach.default: lambda x: x,
    aten.lift_fresh_copy.default: lambda x: x,
    aten._to_copy.default: lambda x, dtype=None, **_: x if dtype is None else tf.cast(x, dtype),
    aten.full.default: lambda shape, value, dtype="float32", **_: tf.fill(shape, tf.cast(value, dtype)),
    aten.full_like.default: lambda x, value, **_: tf.fill(tf.shape(x), tf.cast(value, x.dtype)),
    aten.scalar_tensor.default: lambda value, dtype="float32", **_: tf.constant(value, dtype),
    aten.arange.start_step: lambda start, end, step=1, dtype="int64", **_: tf.range(start, end, step, dtype),
    # images
    aten.convolution.default: _convolution,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool2d.default: lambda *args: _max_pool(*args)[0],
    aten.avg_pool2d.default: _avg_pool,
    aten._adaptive_avg_pool2d.default: _adaptive_avg_pool,
    aten.upsample_nearest2d.vec: _resize("nearest"),
    aten.upsample_bilinear2d.vec: _resize("bilinear"),
    # products
    aten.mm.default: tf.matmul,
    aten.bmm.default: tf.matmul,
    aten.addmm.default: lambda bias, a, b: tf.matmul(a, b) + bias,
    # normalization
    aten._softmax.default: lambda x, dim, half: tf.nn.softmax(x, dim),
    aten._log_softmax.default: lambda x, dim, half: tf.nn.log_softmax(x, dim),
    aten.native_layer_norm.default: _layer_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten._native_batch_norm_legit.no_stats: _instance_norm,
    aten.native_group_norm.default: _group_norm,
    # of one tensor
    aten.relu.default: tf.nn.relu,
    aten.sigmoid.default: tf.sigmoid,
    aten.tanh.default: tf.tanh,
    aten.exp.default: tf.exp,
    aten.log.default: tf.math.log,
    aten.log1p.default: lambda x: tf.math.log(x + 1.0),
    aten.expm1.default: lambda x: tf.exp(x) - 1.0,
    aten.sqrt.default: tf.sqrt,
    aten.rsqrt.default: tf.math.rsqrt,
    aten.reciprocal.default: lambda x: 1.0 / x,
    aten.abs.default: tf.abs,
    aten.neg.default: tf.negative,
    aten.sin.default: tf.sin,
    aten.cos.default: tf.cos,
    aten.floor.default: tf.floor,
    aten.ceil.default: tf.math.ceil,
    aten.round.default: tf.round,
    aten.logical_not.default: tf.logical_not,
    aten.gelu.default: lambda x, approximate="none": tf.nn.gelu(x, approximate == "tanh"),
    aten.leaky_relu.default: lambda x, alpha=0.01: tf.maximum(x, 0.0) + alpha * tf.minimum(x, 0.0),
    aten.elu.default: lambda x, alpha=1.0, scale=1.0, slope=1.0: scale
    * (tf.maximum(x, 0.0) + alpha * (tf.exp(slope * tf.minimum(x, 0.0)) - 1.0)),
    aten.hardtanh.default: lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    aten.clamp.default: _clamp,
    aten.pow.Tensor_Scalar: lambda x, n: tf.square(x) if n == 2 else tf.pow(x, tf.cast(n, x.dtype)),
    # of two
    aten.pow.Tensor_Tensor: _binary(tf.pow),
    aten.fmod.Scalar: _binary(lambda a, b: a - b * tf.truncatediv(a, b) if a.dtype.is_integer else tf.math.mod(a, b)),
    aten.remainder.Scalar: _binary(tf.math.floormod),
    aten.maximum.default: tf.maximum,
    aten.minimum.default: tf.minimum,
    aten.logical_and.default: tf.logical_and,
    aten.logical_or.default: tf.logical_or,
    aten.where.self: lambda mask, a, b: tf.where(mask, a, b),
    **{
        getattr(getattr(aten, name), kind): _binary(function)
        for name, function in {
            "add": tf.add, "sub": tf.subtract, "mul": tf.multiply, "div": tf.divide,
            "eq": tf.equal, "ne": tf.not_equal, "lt": tf.less, "le": tf.less_equal, "gt": tf.greater, "ge": tf.greater_equal,
        }.items()
        for kind in ("Tensor", "Scalar")
    },
    # over axes
    aten.linalg_vector_norm.default: _norm,
    aten.sum.dim_IntList: _reduce(tf.reduce_sum),
    aten.mean.dim: _reduce(tf.reduce_mean),
    aten.amax.default: _reduce(tf.reduce_max),
    aten.amin.default: _reduce(tf.reduce_min),
    aten.var.correction: _variance,
    aten.max.dim: _extreme(tf.reduce_max, tf.argmax),
    aten.min.dim: _extreme(tf.reduce_min, tf.argmin),
    aten.any.dim: _reduce(tf.reduce_any),
    aten.cumsum.default: lambda x, dim, **_: tf.cumsum(x, dim),
}  # fmt: skip

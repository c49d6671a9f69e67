"""The core ATen operators in TensorFlow, by a line each. Images are ``NCHW``, as PyTorch's operators take them.

Names and arguments: https://docs.pytorch.org/docs/stable/torch.compiler_ir.html.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import torch

from .aten_arithmetic import (
    batch_norm,
    binary,
    clamp,
    extreme,
    group_norm,
    instance_norm,
    layer_norm,
    reduce,
    variance,
    vector_norm,
)
from .aten_images import adaptive_avg_pool, avg_pool, convolution, max_pool, resize_bilinear, resize_nearest
from .aten_shapes import expand, index, index_select, pad, select, slice_, split, squeeze, swap, view

aten = torch.ops.aten

ATEN: dict[Any, Callable[..., Any]] = {
    # shapes
    aten.view.default: view,
    aten._unsafe_view.default: view,
    aten.reshape.default: view,
    aten.expand.default: expand,
    aten.permute.default: tf.transpose,
    aten.transpose.int: swap,
    aten.t.default: tf.transpose,
    aten.unsqueeze.default: tf.expand_dims,
    aten.squeeze.dim: squeeze,
    aten.squeeze.dims: squeeze,
    aten.cat.default: lambda xs, dim=0: tf.concat(xs, dim),
    aten.split_with_sizes.default: split,
    aten.slice.Tensor: slice_,
    aten.select.int: select,
    aten.repeat.default: lambda x, repeats: tf.tile(x, repeats),
    aten.flip.default: tf.reverse,
    aten.constant_pad_nd.default: pad,
    aten.index_select.default: index_select,
    aten.index.Tensor: index,
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
    aten.convolution.default: convolution,
    aten.max_pool2d_with_indices.default: max_pool,
    aten.max_pool2d.default: lambda *args: max_pool(*args)[0],
    aten.avg_pool2d.default: avg_pool,
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.upsample_nearest2d.vec: resize_nearest,
    aten.upsample_bilinear2d.vec: resize_bilinear,
    # products
    aten.mm.default: tf.matmul,
    aten.bmm.default: tf.matmul,
    aten.addmm.default: lambda bias, a, b: tf.matmul(a, b) + bias,
    # normalization
    aten._softmax.default: lambda x, dim, half: tf.nn.softmax(x, dim),
    aten._log_softmax.default: lambda x, dim, half: tf.nn.log_softmax(x, dim),
    aten.native_layer_norm.default: layer_norm,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten._native_batch_norm_legit.no_stats: instance_norm,
    aten.native_group_norm.default: group_norm,
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
    aten.hardtanh.default: lambda x, low=-1.0, high=1.0: clamp(x, low, high),
    aten.clamp.default: clamp,
    aten.pow.Tensor_Scalar: lambda x, n: tf.square(x) if n == 2 else tf.pow(x, tf.cast(n, x.dtype)),
    # of two
    aten.pow.Tensor_Tensor: binary(tf.pow),
    aten.fmod.Scalar: binary(lambda a, b: a - b * tf.truncatediv(a, b) if a.dtype.is_integer else tf.math.mod(a, b)),
    aten.remainder.Scalar: binary(tf.math.floormod),
    aten.maximum.default: tf.maximum,
    aten.minimum.default: tf.minimum,
    aten.logical_and.default: tf.logical_and,
    aten.logical_or.default: tf.logical_or,
    aten.where.self: lambda mask, a, b: tf.where(mask, a, b),
    **{
        getattr(getattr(aten, name), kind): binary(function)
        for name, function in {
            "add": tf.add, "sub": tf.subtract, "mul": tf.multiply, "div": tf.divide,
            "eq": tf.equal, "ne": tf.not_equal, "lt": tf.less, "le": tf.less_equal, "gt": tf.greater, "ge": tf.greater_equal,
        }.items()
        for kind in ("Tensor", "Scalar")
    },
    # over axes
    aten.linalg_vector_norm.default: vector_norm,
    aten.sum.dim_IntList: reduce(tf.reduce_sum),
    aten.mean.dim: reduce(tf.reduce_mean),
    aten.amax.default: reduce(tf.reduce_max),
    aten.amin.default: reduce(tf.reduce_min),
    aten.var.correction: variance,
    aten.max.dim: extreme(tf.reduce_max, tf.argmax),
    aten.min.dim: extreme(tf.reduce_min, tf.argmin),
    aten.any.dim: reduce(tf.reduce_any),
    aten.cumsum.default: lambda x, dim, **_: tf.cumsum(x, dim),
}  # fmt: skip

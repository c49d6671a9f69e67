"""The core ATen operators in TensorFlow, by a line each. Images are ``NCHW``, as PyTorch's operators take them.

Names and arguments: https://docs.pytorch.org/docs/stable/torch.compiler_ir.html.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import torch

from . import aten_arithmetic as arithmetic
from . import aten_images as images
from . import aten_indexing as indexing
from . import aten_resampling as resampling
from . import aten_shapes as shapes
from .aten_arithmetic import binary, bitwise, clamp, extreme, extreme_index, logical, reduce

aten = torch.ops.aten

ATEN: dict[Any, Callable[..., Any]] = {
    # shapes
    aten.view.default: shapes.view,
    aten._unsafe_view.default: shapes.view,
    aten.reshape.default: shapes.view,
    aten.expand.default: shapes.expand,
    aten.permute.default: shapes.permute,
    aten.transpose.int: shapes.swap,
    aten.t.default: tf.transpose,
    aten.unsqueeze.default: tf.expand_dims,
    aten.squeeze.dim: shapes.squeeze,
    aten.squeeze.dims: shapes.squeeze,
    aten.cat.default: lambda xs, dim=0: tf.concat(arithmetic.alike(*xs), dim),
    aten.split_with_sizes.default: shapes.split,
    aten.slice.Tensor: shapes.slice_,
    aten.select.int: shapes.select,
    aten.repeat.default: shapes.repeat,
    aten.flip.default: tf.reverse,
    aten.constant_pad_nd.default: shapes.pad,
    aten.index_select.default: indexing.index_select,
    aten.index.Tensor: indexing.index,
    aten.embedding.default: lambda weight, indices, *_: tf.gather(weight, indices),
    aten.gather.default: indexing.gather,
    aten.scatter.src: indexing.scatter(added=False),
    aten.scatter.value: indexing.scatter(added=False),
    aten.scatter_add.default: indexing.scatter(added=True),
    aten.scatter_reduce.two: indexing.scatter_reduce,
    aten.index_put.default: indexing.index_put,
    aten.slice_scatter.default: indexing.slice_scatter,
    aten.select_scatter.default: indexing.select_scatter,
    aten.unfold.default: indexing.windows,
    aten.diagonal.default: indexing.diagonal,
    # order
    aten.argmax.default: extreme_index(tf.argmax),
    aten.argmin.default: extreme_index(tf.argmin),
    aten.topk.default: indexing.topk,
    aten.sort.default: indexing.sort,
    aten.sort.stable: indexing.stable_sort,
    aten.kthvalue.default: indexing.kth_value,
    aten.median.dim: indexing.median,
    aten.bucketize.Tensor: indexing.bucketize,
    aten.searchsorted.Tensor: lambda bounds, x, **options: indexing.bucketize(x, bounds, **options),
    aten.sym_size.int: lambda x, dim: x.shape[dim] if x.shape[dim] is not None else tf.shape(x)[dim],
    # the same values
    aten.copy.default: lambda x, y, *_: tf.broadcast_to(tf.cast(y, x.dtype), tf.shape(x)),
    aten.clone.default: lambda x, **_: x,
    aten.alias.default: lambda x: x,
    aten.detach.default: lambda x: x,
    aten.lift_fresh_copy.default: lambda x: x,
    aten._to_copy.default: lambda x, dtype=None, **_: x if dtype is None else arithmetic.cast(x, dtype),
    aten.full.default: lambda shape, value, dtype="float32", **_: tf.fill(shape, tf.cast(value, dtype)),
    aten.full_like.default: lambda x, value, **_: tf.fill(tf.shape(x), tf.cast(value, x.dtype)),
    aten.scalar_tensor.default: lambda value, dtype="float32", **_: tf.constant(value, dtype),
    aten.empty.memory_format: lambda shape, dtype="float32", **_: tf.zeros(shape, dtype),
    aten.arange.start_step: shapes.numbers,
    # images
    aten.convolution.default: images.convolution,
    aten.max_pool2d_with_indices.default: images.max_pool,
    aten.max_pool2d.default: lambda *args: images.max_pool(*args)[0],
    aten.avg_pool2d.default: images.avg_pool,
    aten._adaptive_avg_pool2d.default: images.adaptive_avg_pool,
    aten.adaptive_max_pool2d.default: resampling.adaptive_max_pool,
    aten.max_pool3d_with_indices.default: images.max_pool3d,
    aten.avg_pool3d.default: images.avg_pool3d,
    aten.upsample_bicubic2d.vec: resampling.interpolated(aten.upsample_bicubic2d.vec),
    aten._upsample_bicubic2d_aa.default: resampling.interpolated_to_size(aten._upsample_bicubic2d_aa.default),
    aten._upsample_bilinear2d_aa.default: resampling.interpolated_to_size(aten._upsample_bilinear2d_aa.default),
    aten.grid_sampler_2d.default: resampling.grid_sample,
    aten.upsample_nearest2d.vec: images.resize_nearest,
    aten.upsample_bilinear2d.vec: images.resize_bilinear,
    # products
    aten.mm.default: tf.matmul,
    aten.bmm.default: tf.matmul,
    aten.addmm.default: lambda bias, a, b: tf.matmul(a, b) + bias,
    # normalization
    aten._softmax.default: lambda x, dim, half: tf.nn.softmax(x, dim),
    aten._log_softmax.default: lambda x, dim, half: tf.nn.log_softmax(x, dim),
    aten.native_layer_norm.default: arithmetic.layer_norm,
    aten._native_batch_norm_legit_no_training.default: arithmetic.batch_norm,
    aten._native_batch_norm_legit.no_stats: arithmetic.instance_norm,
    aten.native_group_norm.default: arithmetic.group_norm,
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
    aten.abs.default: arithmetic.magnitude,
    aten.neg.default: tf.negative,
    aten.sin.default: tf.sin,
    aten.cos.default: tf.cos,
    aten.floor.default: tf.floor,
    aten.ceil.default: tf.math.ceil,
    aten.round.default: tf.round,
    aten.trunc.default: arithmetic.trunc,
    aten.sign.default: arithmetic.sign,
    aten.erf.default: arithmetic.erf,
    aten.erfc.default: lambda x: 1.0 - arithmetic.erf(x),
    aten.exp2.default: lambda x: tf.exp(x * math.log(2.0)),
    aten.log2.default: lambda x: tf.math.log(x) / math.log(2.0),
    aten.log10.default: lambda x: tf.math.log(x) / math.log(10.0),
    aten.tan.default: lambda x: tf.sin(x) / tf.cos(x),
    aten.asin.default: lambda x: tf.atan2(x, tf.sqrt((1.0 - x) * (1.0 + x))),
    aten.acos.default: lambda x: tf.atan2(tf.sqrt((1.0 - x) * (1.0 + x)), x),
    aten.atan.default: lambda x: tf.atan2(x, tf.ones_like(x)),
    aten.sinh.default: lambda x: (tf.exp(x) - tf.exp(-x)) / 2.0,
    aten.cosh.default: lambda x: (tf.exp(x) + tf.exp(-x)) / 2.0,
    aten.asinh.default: lambda x: tf.sign(x) * tf.math.log(tf.abs(x) + tf.sqrt(tf.square(x) + 1.0)),
    aten.acosh.default: lambda x: tf.math.log(x + tf.sqrt(tf.square(x) - 1.0)),
    aten.atanh.default: lambda x: tf.math.log((1.0 + x) / (1.0 - x)) / 2.0,
    aten.isnan.default: lambda x: tf.not_equal(x, x),
    aten.isinf.default: lambda x: tf.equal(tf.abs(x), math.inf),
    aten.logical_not.default: logical(tf.logical_not),
    aten.bitwise_not.default: bitwise(tf.logical_not, lambda x: -1 - x),
    aten.gelu.default: lambda x, approximate="none": tf.nn.gelu(x, approximate == "tanh"),
    aten.leaky_relu.default: lambda x, alpha=0.01: tf.maximum(x, 0.0) + alpha * tf.minimum(x, 0.0),
    aten.elu.default: lambda x, alpha=1.0, scale=1.0, slope=1.0: scale
    * (tf.maximum(x, 0.0) + alpha * (tf.exp(slope * tf.minimum(x, 0.0)) - 1.0)),
    aten.hardtanh.default: lambda x, low=-1.0, high=1.0: clamp(x, low, high),
    aten.rrelu_with_noise_functional.default: lambda x, noise, low=0.125, high=1 / 3, *_: [
        tf.maximum(x, 0.0) + (low + high) / 2 * tf.minimum(x, 0.0)
    ],
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.pow.Tensor_Scalar: lambda x, n: tf.square(x) if n == 2 else tf.pow(x, tf.cast(n, x.dtype)),
    # of two
    aten.pow.Tensor_Tensor: binary(tf.pow),
    aten.pow.Scalar: lambda base, x: tf.pow(tf.cast(base, x.dtype), x),
    aten.fmod.Scalar: binary(arithmetic.trunc_rest),
    aten.fmod.Tensor: binary(arithmetic.trunc_rest),
    aten.remainder.Scalar: binary(arithmetic.floor_rest),
    aten.remainder.Tensor: binary(arithmetic.floor_rest),
    aten.div.Tensor_mode: arithmetic.divide,
    aten.div.Scalar_mode: arithmetic.divide,
    aten.atan2.default: lambda a, b: tf.atan2(a + tf.zeros_like(b), b + tf.zeros_like(a)),
    aten.hypot.default: lambda a, b: tf.sqrt(tf.square(a) + tf.square(b)),
    aten.copysign.Tensor: lambda a, b: tf.where(b < 0, -tf.abs(a), tf.abs(a)),
    aten.fmax.default: tf.maximum,
    aten.fmin.default: tf.minimum,
    aten._cdist_forward.default: arithmetic.distances,
    aten.maximum.default: tf.maximum,
    aten.minimum.default: tf.minimum,
    aten.logical_and.default: logical(tf.logical_and),
    aten.logical_or.default: logical(tf.logical_or),
    aten.logical_xor.default: logical(tf.not_equal),
    **{
        getattr(getattr(aten, name), kind): function
        for name, function in {
            "bitwise_and": bitwise(tf.logical_and), "bitwise_or": bitwise(tf.logical_or),
            "bitwise_xor": bitwise(tf.not_equal, tf.bitwise.bitwise_xor),
            "__lshift__": binary(lambda a, b: a * 2**b), "__rshift__": binary(lambda a, b: tf.math.floordiv(a, 2**b)),
        }.items()
        for kind in ("Tensor", "Scalar")
    },
    aten.where.self: lambda mask, a, b: tf.where(mask, *arithmetic.alike(a, b)),
    **{
        getattr(getattr(aten, name), kind): binary(function)
        for name, function in {
            "add": arithmetic.add, "sub": tf.subtract, "mul": arithmetic.multiply, "div": tf.divide,
            "eq": tf.equal, "ne": tf.not_equal, "lt": tf.less, "le": tf.less_equal, "gt": tf.greater, "ge": tf.greater_equal,
        }.items()
        for kind in ("Tensor", "Scalar")
    },
    # over axes
    aten.linalg_vector_norm.default: arithmetic.vector_norm,
    aten.sum.dim_IntList: reduce(tf.reduce_sum),
    aten.mean.dim: reduce(tf.reduce_mean),
    aten.mean.default: tf.reduce_mean,
    aten.sum.default: reduce(tf.reduce_sum),
    aten.max.default: tf.reduce_max,
    aten.min.default: tf.reduce_min,
    aten.prod.dim_int: reduce(tf.reduce_prod),
    aten.prod.default: tf.reduce_prod,
    aten.amax.default: reduce(tf.reduce_max),
    aten.amin.default: reduce(tf.reduce_min),
    aten.var.correction: arithmetic.variance,
    aten.max.dim: extreme(tf.reduce_max, tf.argmax),
    aten.min.dim: extreme(tf.reduce_min, tf.argmin),
    aten.var_mean.correction: lambda x, dim=None, **options: [
        arithmetic.variance(x, dim, **options), tf.reduce_mean(x, dim, keepdims=options.get("keepdim", False))
    ],
    aten.any.default: lambda x: tf.reduce_any(tf.cast(x, tf.bool)),
    aten.any.dim: lambda x, dim, keepdim=False: tf.reduce_any(tf.cast(x, tf.bool), dim, keepdims=keepdim),
    aten.any.dims: lambda x, dim=None, keepdim=False: tf.reduce_any(tf.cast(x, tf.bool), dim, keepdims=keepdim),
    aten.cumsum.default: lambda x, dim, **_: tf.cumsum(arithmetic.countable(x), dim),
    aten.cumprod.default: indexing.cumulative(tf.reduce_prod, 1.0),
    aten.cummax.default: lambda x, dim: [indexing.cumulative(tf.reduce_max, -math.inf)(x, dim)],
    aten.cummin.default: lambda x, dim: [indexing.cumulative(tf.reduce_min, math.inf)(x, dim)],
    aten.logcumsumexp.default: indexing.cumulative(tf.reduce_logsumexp, -1e30),
}  # fmt: skip

"""The table from Keras' layers and operations to the neutral graph's kinds."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from .activations import activated, activation_layer
from .affine import average, layer_scale, normalization, prelu, rescaling, scaled_residual
from .attention import (
    dot,
    dot_product_attention,
    einsum,
    einsum_dense,
    embedding,
    matmul,
    multi_head_attention,
    reversible_embedding,
    softmax,
    tensordot,
)
from .builder import Builder, Rule
from .dot_layer import dot_layer
from .elementwise import ARITHMETIC, FUNCTION_RULES, arithmetic, binary, celu, clip, divide, hard_tanh, relu, subtract
from .layer_calls import Call, with_placeholders
from .operands import weights_of
from .parts import glu, stack
from .reductions import greatest, mean, norm, spread, total, unit_norm
from .time_distributed import time_distributed
from .window_rules import (
    adaptive,
    conv,
    conv2d,
    conv_transpose,
    conv_transpose2d,
    depthwise_conv,
    depthwise_conv2d,
    global_average,
    of_signals,
    pad,
    pad_images,
    patches,
    pool,
    pooling,
    resizing,
    separable_conv,
    separable_conv2d,
    zero_padding,
)


def rule_of(b: Builder, kind: str, c: Call) -> Rule | None:
    """Return the rule of a call of a layer of the class ``kind``."""
    if kind in ARITHMETIC and len(c.inputs) == 1:
        return arithmetic
    return RULES.get(kind)


def _dense(b: Builder, c: Call) -> str | None:
    params = {"weight": c.layer.kernel, "bias": c.layer.bias if c.layer.use_bias else None}
    return activated(b, b.emit("dense", c.inputs, c.output, c.path, params, channel_axis=-1), c)


def _batch_norm(b: Builder, c: Call) -> str | None:
    layer, rank = c.layer, len(c.shape)
    if layer.axis not in (-1, rank - 1):
        return None
    params = {"gamma": layer.gamma, "beta": layer.beta, "mean": layer.moving_mean, "variance": layer.moving_variance}
    return b.emit("batch_norm", c.inputs, c.output, c.path, params, epsilon=float(layer.epsilon), axis=rank - 1)


def _batch_norm_of(b: Builder, c: Call) -> str | None:
    """``keras.ops.batch_normalization`` by fixed statistics."""
    params, axis, rank = weights_of(b, c, "mean", "variance", "beta", "gamma"), c.layer.axis, len(c.shape)
    if params is None or axis not in (-1, rank - 1):
        return None
    return b.emit("batch_norm", c.inputs[:1], c.output, c.path, params, epsilon=float(c.layer.epsilon), axis=rank - 1)


def _layer_norm_of(b: Builder, c: Call) -> str | None:
    """``keras.ops.layer_normalization``."""
    return _norm_of(b, c, "layer_norm", ("gamma", "beta"), **({"uncentered": True} if c.layer.rms_scaling else {}))


def _rms_norm_of(b: Builder, c: Call) -> str | None:
    """``keras.ops.rms_normalization``."""
    return _norm_of(b, c, "rms_norm", ("gamma",), least=0.0)


def _norm_of(b: Builder, c: Call, kind: str, roles: tuple[str, ...], **attrs: Any) -> str | None:
    """A norm whose factors are arguments, over the last axis."""
    params, (axes, where) = weights_of(b, c, *roles), _axes_of_norm(c)
    if params is None or axes is None or where:
        return None
    epsilon = keras.config.epsilon() if c.layer.epsilon is None else c.layer.epsilon
    return b.emit(kind, c.inputs[:1], c.output, c.path, params, epsilon=float(epsilon), **attrs)


def _layer_norm(b: Builder, c: Call) -> str:
    if getattr(c.layer, "rms_scaling", False):  # divides by the deviation, and adds no beta
        return _norm(b, c, "layer_norm", {"gamma": c.layer.gamma}, uncentered=True)
    return _norm(b, c, "layer_norm", {"gamma": c.layer.gamma, "beta": c.layer.beta})


def _group_norm(b: Builder, c: Call) -> str | None:
    layer, rank = c.layer, len(c.shape)
    if None in c.shape[1:] or not isinstance(layer.axis, int) or layer.axis % rank == 0 or str(c.output.dtype) != "float32":
        return None
    attrs = {"epsilon": float(layer.epsilon), "groups": int(layer.groups), "axis": layer.axis % rank}
    return b.emit("group_norm", c.inputs[:1], c.output, c.path, {"gamma": layer.gamma, "beta": layer.beta}, **attrs)


def _rms_norm(b: Builder, c: Call) -> str:
    return _norm(b, c, "rms_norm", {"gamma": c.layer.scale}, least=0.0)


def _dot(b: Builder, c: Call) -> str | None:
    return dot_layer(b, c) if isinstance(c.layer, keras.layers.Dot) else dot(b, c)


def _unit_norm(b: Builder, c: Call) -> str | None:
    axes, where = _axes_of_norm(c)
    return None if axes is None else unit_norm(b, c.inputs[0], math.prod(c.shape[a] or 1 for a in axes), c.path, 1e-12, **where)


def _normalize(b: Builder, c: Call) -> str | None:
    """A unit norm of ``keras.ops``; of another order than two, or over the samples too, none."""
    axes, where = _axes_of_norm(c) if c.layer.order == 2 and c.layer.axis is not None else (None, {})
    least = keras.config.epsilon() if c.layer.epsilon is None else float(c.layer.epsilon)
    return None if axes is None else unit_norm(b, c.inputs[0], math.prod(c.shape[a] or 1 for a in axes), c.path, least, **where)


def _norm(b: Builder, c: Call, kind: str, variables: Mapping[str, Any], **attrs: Any) -> str:
    """A norm over any axes but the batch; one whose sizes are free keeps its layer."""
    (axes, where), epsilon = _axes_of_norm(c), float(c.layer.epsilon)
    if axes is None:
        return b.computes(kind, c, epsilon=epsilon, **attrs)
    return b.emit(kind, c.inputs[:1], c.output, c.path, variables, epsilon=epsilon, **where, **attrs)


def _axes_of_norm(c: Call) -> tuple[tuple[int, ...] | None, dict[str, Any]]:
    """Return the axes that a norm reads, None where a kernel cannot, and the attribute that says so of others than the last."""
    rank, axis = len(c.shape), c.layer.axis
    axes = tuple(sorted(a % rank for a in ([axis] if isinstance(axis, int) else axis)))
    last = axes == (rank - 1,)
    if 0 in axes or None in (c.shape[-1:] if last else c.shape[1:]) or str(c.output.dtype) != "float32":
        return None, {}
    return axes, {} if last else {"axes": axes}


def _concat(b: Builder, c: Call) -> str | None:
    return b.emit("concat", c.inputs, c.output, c.path, axis=c.layer.axis % len(c.shape))


def _reshape(b: Builder, c: Call) -> str | None:
    """A change of shape; the first axis stays the batch, or holds it folded with other axes."""
    before, after = b.specs[c.inputs[0]].shape, c.shape
    kept, made = ([int(n) for n in shape[1:] if n is not None] for shape in (before, after))
    if len(made) < len(after) - 1:
        return None
    attrs: dict[str, Any] = {"shape": (-1, *made)}
    fixed = len(kept) == len(before) - 1
    if before[:1] != after[:1] or (fixed and math.prod(kept) != math.prod(made)):
        if not fixed:
            return None
        attrs["folds"] = True
    return b.emit("reshape", c.inputs, c.output, c.path, **attrs)


def _axis_of_one(b: Builder, c: Call) -> str | None:
    """``expand_dims`` and ``squeeze`` of a parameter, which may be laid out anew; of any other tensor they move values."""
    return _reshape(b, c) if b.is_parameter(c.inputs[0]) else None


def _slice(b: Builder, c: Call) -> str | None:
    """A slice that is the whole tensor."""
    return c.inputs[0] if c.shape == b.specs[c.inputs[0]].shape and len(c.inputs) == 1 else None


def _take(b: Builder, c: Call) -> str | None:
    """Lines of a parameter at indices, as an embedding has them, or all in their order: those of positions, say."""
    bound = inspect.signature(c.layer.call).bind(*c.arguments.args, **c.arguments.kwargs).arguments
    lines = b.specs[c.inputs[0]].shape[0] or 0
    table = b.parameter(c.inputs[0])
    if table is not None and c.layer.axis == 0 and len(c.inputs) == 2 and len(b.params[table].shape) == 2:
        looked_up = b.specs[c.inputs[1]].dtype in ("int32", "int64") and b.specs[c.inputs[0]].dtype == "float32"
        return b.emit("embedding", c.inputs[1:], c.output, c.path, {"weight": table}, wraps=True) if looked_up else None
    if len(c.inputs) != 1 or not b.is_parameter(c.inputs[0]) or c.layer.axis != 0:
        return None
    if not np.array_equal(np.ravel(np.asarray(bound["indices"])), np.arange(lines)):
        return None
    return c.inputs[0] if c.shape[0] == lines and np.ndim(bound["indices"]) == 1 else _reshape(b, c)


def _permute(b: Builder, c: Call) -> str | None:
    return _transposed(b, c, (0, *c.layer.dims))


def _transpose(b: Builder, c: Call) -> str | None:
    if len(c.shape) == 2 and c.layer.axes in (None, (1, 0), [1, 0]) and (name := _turned(b, c)) is not None:
        return name
    return _transposed(b, c, c.layer.axes or tuple(reversed(range(len(c.shape)))))


def _swapped(b: Builder, c: Call) -> str | None:
    return _turned(b, c) if len(c.shape) == 2 and (c.layer.axis1 - c.layer.axis2) % 2 else None


def _turned(b: Builder, c: Call) -> str | None:
    """The transpose of a parameter, which a product reads as its weight."""
    if not b.is_parameter(c.inputs[0]):
        return None
    (name,) = b.keep("float", c.layer, c.inputs, [c.output], c.path, with_placeholders(c.arguments))
    b.turned[name] = c.inputs[0]
    return name


def _transposed(b: Builder, c: Call, axes: tuple[int, ...]) -> str | None:
    axes = tuple(int(a) % len(c.shape) for a in axes)
    return b.emit("transpose", c.inputs, c.output, c.path, axes=axes) if axes[0] == 0 else None


RULES: dict[str, Rule] = {
    "Conv2D": conv2d,
    "Conv2DTranspose": conv_transpose2d,
    "DepthwiseConv2D": depthwise_conv2d,
    "SeparableConv2D": separable_conv2d,
    "Dense": _dense,
    "EinsumDense": einsum_dense,
    "Matmul": matmul,
    "Dot": _dot,
    "Tensordot": tensordot,
    "Einsum": einsum,
    "MultiHeadAttention": multi_head_attention,
    "DotProductAttention": dot_product_attention,
    "Embedding": embedding,
    "ReversibleEmbedding": reversible_embedding,
    "Softmax": softmax,
    "BatchNormalization": _batch_norm,
    "BatchNorm": _batch_norm_of,
    "LayerNorm": _layer_norm_of,
    "RMSNorm": _rms_norm_of,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm,
    "Add": binary("add"),
    "Multiply": binary("mul"),
    "Subtract": subtract,
    "Average": average,
    "Maximum": binary("maximum"),
    "Minimum": binary("minimum"),
    "Fmax": binary("maximum"),
    "Fmin": binary("minimum"),
    "Clip": clip,
    "HardTanh": hard_tanh,
    "Celu": celu,
    "Divide": divide,
    "TrueDivide": divide,
    "Mean": mean,
    "Sum": total,
    "Var": spread("variance"),
    "Std": spread("deviation"),
    "Norm": norm,
    "Max": greatest,
    "Amax": greatest,
    "Concatenate": _concat,
    "Stack": stack,
    "Glu": glu,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthwiseConv": depthwise_conv,
    "SeparableConv": separable_conv,
    "UnitNormalization": _unit_norm,
    "Normalize": _normalize,
    "AdaptiveAveragePooling2D": adaptive("avg_pool2d"),
    "AdaptiveMaxPooling2D": adaptive("max_pool2d"),
    "TimeDistributed": time_distributed,
    "ReLU": relu,
    "PReLU": prelu,
    "Activation": activation_layer,
    **FUNCTION_RULES,
    "Rescaling": rescaling,
    "Normalization": normalization,
    "LayerScale": layer_scale,
    "CustomScaleLayer": scaled_residual,
    "MaxPooling2D": pooling("max_pool2d"),
    "AveragePooling2D": pooling("avg_pool2d"),
    "MaxPool": pool("max_pool2d"),
    "AveragePool": pool("avg_pool2d"),
    "GlobalAveragePooling2D": global_average,
    "Permute": _permute,
    "Transpose": _transpose,
    "Swapaxes": _swapped,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "ExpandDims": _axis_of_one,
    "Squeeze": _axis_of_one,
    "Slice": _slice,
    "Take": _take,
    "Resizing": resizing,
    "Resize": resizing,
    "ZeroPadding2D": zero_padding,
    "Pad": pad,
    "PadImages": pad_images,
    "ExtractPatches": patches,
    "Conv1D": of_signals(conv2d),
    "Conv1DTranspose": of_signals(conv_transpose2d),
    "DepthwiseConv1D": of_signals(depthwise_conv2d),
    "SeparableConv1D": of_signals(separable_conv2d),
    "MaxPooling1D": of_signals(pooling("max_pool2d")),
    "AveragePooling1D": of_signals(pooling("avg_pool2d")),
    "GlobalAveragePooling1D": of_signals(global_average),
    "ZeroPadding1D": of_signals(zero_padding),
}

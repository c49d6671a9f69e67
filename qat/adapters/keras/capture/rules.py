"""The table from Keras' layers and operations to the neutral graph's kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .activations import activated, activation_layer
from .affine import average, layer_scale, normalization, prelu, rescaling, scaled_residual
from .attention import einsum, einsum_dense, embedding, matmul, multi_head_attention, softmax
from .builder import Builder, Rule
from .elementwise import ARITHMETIC, FUNCTION_RULES, arithmetic, binary, clip, divide, relu, subtract
from .layer_calls import Call
from .reductions import greatest, mean, norm, spread, total
from .window_rules import (
    conv2d,
    conv_transpose2d,
    depthwise_conv2d,
    global_average,
    of_signals,
    pooling,
    resizing,
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


def _layer_norm(b: Builder, c: Call) -> str:
    return _norm(b, c, "layer_norm", {"gamma": c.layer.gamma, "beta": c.layer.beta})


def _rms_norm(b: Builder, c: Call) -> str:
    return _norm(b, c, "rms_norm", {"gamma": c.layer.scale}, least=0.0)


def _norm(b: Builder, c: Call, kind: str, variables: Mapping[str, Any], **attrs: float) -> str:
    """Keep the layer of a norm; over the last axis alone its parameters are named among the attributes."""
    axes = [c.layer.axis] if isinstance(c.layer.axis, int) else list(c.layer.axis)
    usual = [axis % len(c.shape) for axis in axes] == [len(c.shape) - 1] and not getattr(c.layer, "rms_scaling", False)
    params = {role: b.param(variable, c.path) for role, variable in variables.items() if usual and variable is not None}
    known: dict[str, Any] = {"epsilon": float(c.layer.epsilon), **attrs, **params}
    return b.computes(kind, c, **known)


def _concat(b: Builder, c: Call) -> str | None:
    return b.emit("concat", c.inputs, c.output, c.path, axis=c.layer.axis % len(c.shape))


def _reshape(b: Builder, c: Call) -> str | None:
    fixed = [int(n) for n in c.shape[1:] if n is not None]
    return b.emit("reshape", c.inputs, c.output, c.path, shape=(-1, *fixed)) if len(fixed) == len(c.shape) - 1 else None


def _permute(b: Builder, c: Call) -> str | None:
    return _transposed(b, c, (0, *c.layer.dims))


def _transpose(b: Builder, c: Call) -> str | None:
    return _transposed(b, c, c.layer.axes or tuple(reversed(range(len(c.shape)))))


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
    "Einsum": einsum,
    "MultiHeadAttention": multi_head_attention,
    "Embedding": embedding,
    "Softmax": softmax,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "Add": binary("add"),
    "Multiply": binary("mul"),
    "Subtract": subtract,
    "Average": average,
    "Maximum": binary("maximum"),
    "Minimum": binary("minimum"),
    "Clip": clip,
    "Divide": divide,
    "TrueDivide": divide,
    "Mean": mean,
    "Sum": total,
    "Var": spread("variance"),
    "Std": spread("deviation"),
    "Norm": norm,
    "Max": greatest,
    "Concatenate": _concat,
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
    "GlobalAveragePooling2D": global_average,
    "Permute": _permute,
    "Transpose": _transpose,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Resizing": resizing,
    "ZeroPadding2D": zero_padding,
    "Conv1D": of_signals(conv2d),
    "Conv1DTranspose": of_signals(conv_transpose2d),
    "DepthwiseConv1D": of_signals(depthwise_conv2d),
    "SeparableConv1D": of_signals(separable_conv2d),
    "MaxPooling1D": of_signals(pooling("max_pool2d")),
    "AveragePooling1D": of_signals(pooling("avg_pool2d")),
    "GlobalAveragePooling1D": of_signals(global_average),
    "ZeroPadding1D": of_signals(zero_padding),
}

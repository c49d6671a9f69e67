"""The table of Keras' layers: one function a layer, which adds its operators to the graph.

Each returns the name of its output tensor, or None for a layer that stays float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from qat.errors import CaptureError
from qat.graph.graph import TensorSpec
from qat.graph.padding import same_padding

from .affine import average, layer_scale, normalization, prelu, rescaling, scaled_residual
from .attention import einsum_dense, embedding, softmax
from .conv1d import on_images
from .elementwise import OPERATIONS, negated_difference
from .elementwise import activation as activation_kind
from .reductions import maximum, mean

if TYPE_CHECKING:
    from .trace import Builder

#: Layers and operations that only move values about.
MOVES = {
    *(
        "Permute",
        "Cropping1D",
        "Cropping2D",
        "Cropping3D",
        "UpSampling1D",
        "UpSampling2D",
        "UpSampling3D",
        "RepeatVector",
        "GlobalMaxPooling1D",
        "GlobalMaxPooling2D",
    ),
    *("Transpose", "GetItem", "Flip", "Roll", "ExpandDims", "Squeeze", "Max", "Repeat", "Tile", "Swapaxes", "Moveaxis"),
}


def is_move(layer: Any) -> bool:
    """Whether a layer of :data:`MOVES` moves values, whatever its options are."""
    return getattr(layer, "interpolation", "nearest") == "nearest" and getattr(layer, "initial", None) is None


def spec_of(name: str, tensor: Any) -> TensorSpec:
    """Return the description of a KerasTensor, or of a float tensor of a shape."""
    shape = tuple(tensor) if isinstance(tensor, (tuple, list)) else tuple(tensor.shape)
    return TensorSpec(name, shape, "float32" if isinstance(tensor, (tuple, list)) else str(tensor.dtype))


def activated(b: Builder, name: str, activation: Any, output: Any, path: str) -> str | None:
    """Add what a layer's ``activation`` argument says; one that has no kind keeps Keras' implementation."""
    kind = getattr(activation, "__name__", "linear")
    if kind == "linear":
        return name
    known = activation_kind(b, name, activation, output, path)
    if known is not None:
        return known
    layer = keras.layers.Activation(activation, name=f"{path.replace('/', '_')}_{kind}")
    return b.keep_one("float", layer, [name], output, path, kind)


def _padding(layer: Any, spec: TensorSpec, window: tuple[int, int], strides: tuple[int, int], path: str) -> Any:
    if layer.padding == "valid":
        return ((0, 0), (0, 0))
    if layer.padding == "causal":
        return tuple((k - 1, 0) for k in window)
    if layer.padding != "same":
        return None
    both = same_padding(spec.shape[1:3], window, strides)
    if both is None:
        raise CaptureError(f"{path}: padding 'same' needs a fixed image size: give keras.Input(shape=(height, width, channels))")
    return both


def _first(b: Builder, layer: Any, path: str, inputs: list[str]) -> tuple[Any, Any, Any]:
    """Return the padding, strides and dilations of a convolution (None for a padding it does not know)."""
    strides, dilations = tuple(layer.strides), tuple(layer.dilation_rate)
    window = tuple((k - 1) * d + 1 for k, d in zip(layer.kernel_size, dilations, strict=True))
    return _padding(layer, b.specs[inputs[0]], window, strides, path), strides, dilations


def _conv2d(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    padding, strides, dilations = _first(b, layer, path, inputs)
    if padding is None:
        return None
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit(
        "conv2d", inputs, output, path, params,
        strides=strides, padding=padding, dilations=dilations, groups=int(layer.groups), channel_axis=-1,
    )  # fmt: skip
    return activated(b, name, layer.activation, output, path)


def _conv_transpose(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last" or tuple(layer.dilation_rate) != (1, 1) or getattr(layer, "groups", 1) != 1:
        return None
    strides, kernel = tuple(layer.strides), tuple(layer.kernel_size)
    extra = layer.output_padding if isinstance(layer.output_padding, (tuple, list)) else (layer.output_padding,) * 2
    cuts = tuple(_cut(layer.padding, k, s, more) for k, s, more in zip(kernel, strides, extra, strict=True))
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit(
        "conv_transpose2d", inputs, output, path, params,
        strides=strides, padding=cuts, dilations=(1, 1), groups=1, channel_axis=-2,
    )  # fmt: skip
    return activated(b, name, layer.activation, output, path)


def _cut(padding: str, kernel: int, stride: int, extra: int | None) -> tuple[int, int]:
    """Return what a transposed convolution leaves out on each side of ``stride * (size - 1) + kernel`` places."""
    if padding == "valid":
        total = -extra if extra is not None else min(kernel - stride, 0)
        return 0, total
    total = kernel - stride if extra is None else 2 * (kernel // 2) - extra
    return max(total, 0) // 2, total - max(total, 0) // 2


def _by_channel(b: Builder, layer: Any, inputs: list[str], output: Any, path: str, params: dict[str, Any]) -> str | None:
    """Add a layer's filters that each read one channel."""
    if layer.data_format != "channels_last":
        return None
    padding, strides, dilations = _first(b, layer, path, inputs)
    if padding is None or (max(dilations) > 1 and max(strides) > 1):
        return None
    return b.emit(
        "depthwise_conv2d", inputs, output, path, params,
        strides=strides, padding=padding, dilations=dilations, groups=b.specs[inputs[0]].shape[-1], channel_axis=(-2, -1),
    )  # fmt: skip


def _depthwise(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = _by_channel(b, layer, inputs, output, path, params)
    return None if name is None else activated(b, name, layer.activation, output, path)


def _separable(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    between = (*output.shape[:-1], layer.depthwise_kernel.shape[-2] * layer.depthwise_kernel.shape[-1])
    name = _by_channel(b, layer, inputs, between, path, {"weight": layer.depthwise_kernel})
    if name is None:
        return None
    params = {"weight": layer.pointwise_kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit(
        "conv2d", [name], output, path, params,
        strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1), groups=1, channel_axis=-1,
    )  # fmt: skip
    return activated(b, name, layer.activation, output, path)


def _dense(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit("dense", inputs, output, path, params, channel_axis=-1)
    return activated(b, name, layer.activation, output, path)


def _batch_norm(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    rank = len(output.shape)
    if layer.axis not in (-1, rank - 1):
        return None
    params = {"gamma": layer.gamma, "beta": layer.beta, "mean": layer.moving_mean, "variance": layer.moving_variance}
    return b.emit("batch_norm", inputs, output, path, params, epsilon=float(layer.epsilon), axis=rank - 1)


def _binary(kind: str) -> Callable[..., str | None]:
    def rule(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
        if any(len(b.specs[n].shape) != len(output.shape) for n in inputs) or len(inputs) < 2:
            return None
        name = inputs[0]
        for other in inputs[1:]:
            name = b.emit(kind, [name, other], _broadcast(b.specs[name].shape, b.specs[other].shape), path)
        return name

    return rule


def _broadcast(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def _concat(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    return b.emit("concat", inputs, output, path, axis=layer.axis % len(output.shape))


def _relu(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.threshold or layer.max_value not in (None, 6) or (layer.negative_slope and layer.max_value):
        return None
    if layer.negative_slope:
        return b.emit("leaky_relu", inputs, output, path, alpha=float(layer.negative_slope))
    return b.emit("relu6" if layer.max_value else "relu", inputs, output, path)


def _activation_layer(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if getattr(layer.activation, "__name__", "") == "linear":
        return inputs[0]
    return activation_kind(b, inputs[0], layer.activation, output, path)


def _pool(kind: str) -> Callable[..., str | None]:
    def rule(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
        if layer.data_format != "channels_last":
            return None
        kernel, strides = tuple(layer.pool_size), tuple(layer.strides)
        padding = _padding(layer, b.specs[inputs[0]], kernel, strides, path)
        return b.emit(kind, inputs, output, path, kernel=kernel, strides=strides, padding=padding)

    return rule


def _global_pool(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    return b.emit("mean", inputs, output, path, axes=(1, 2), keepdims=bool(layer.keepdims))


def _reshape(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if any(d is None for d in output.shape[1:]):
        return None
    return b.emit("reshape", inputs, output, path, shape=(-1, *(int(d) for d in output.shape[1:])))


def _resizing(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """Nearest resizing to a multiple repeats values: an up-sampling, which takes integers, where this layer casts."""
    (_, *sizes, _), (_, *results, _) = b.specs[inputs[0]].shape, output.shape
    if layer.interpolation != "nearest" or layer.data_format != "channels_last" or len(sizes) != 2 or None in sizes:
        return None
    factors = tuple(n // (m or 1) for n, m in zip(results, sizes, strict=True))
    whole = all(n == m * f for n, m, f in zip(results, sizes, factors, strict=True))
    if not whole or ((layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio) and factors[0] != factors[1]):
        return None
    return b.keep_one("move", keras.layers.UpSampling2D(factors, name=path.replace("/", "_")), inputs, output, path)


def _zero_padding(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    return b.emit("pad", inputs, output, path, padding=tuple(tuple(int(n) for n in side) for side in layer.padding))


RULES: dict[str, Callable[..., str | None]] = {
    "Conv2D": _conv2d,
    "Conv2DTranspose": _conv_transpose,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "EinsumDense": einsum_dense,
    "Embedding": embedding,
    "Softmax": softmax,
    "BatchNormalization": _batch_norm,
    "Add": _binary("add"),
    "Multiply": _binary("mul"),
    "Concatenate": _concat,
    "ReLU": _relu,
    "Activation": _activation_layer,
    "Subtract": negated_difference,
    "Average": average,
    "Maximum": maximum,
    "Mean": mean,
    "PReLU": prelu,
    "CustomScaleLayer": scaled_residual,
    "LayerScale": layer_scale,
    "Rescaling": rescaling,
    "Normalization": normalization,
    **OPERATIONS,
    "MaxPooling2D": _pool("max_pool2d"),
    "AveragePooling2D": _pool("avg_pool2d"),
    "GlobalAveragePooling2D": _global_pool,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Resizing": _resizing,
    "ZeroPadding2D": _zero_padding,
    "Conv1D": on_images(_conv2d),
    "Conv1DTranspose": on_images(_conv_transpose),
    "DepthwiseConv1D": on_images(_depthwise),
    "SeparableConv1D": on_images(_separable),
    "MaxPooling1D": on_images(_pool("max_pool2d")),
    "AveragePooling1D": on_images(_pool("avg_pool2d")),
    "GlobalAveragePooling1D": on_images(_global_pool),
    "ZeroPadding1D": on_images(_zero_padding),
}

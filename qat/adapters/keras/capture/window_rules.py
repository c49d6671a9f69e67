"""The rules of layers with windows: convolutions, pooling, and the padding and resizing of images."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from qat.errors import CaptureError
from qat.graph.graph import TensorSpec
from qat.graph.padding import same_padding

from .activations import activated
from .builder import Builder, Rule
from .layer_calls import Call

Padding = tuple[tuple[int, int], ...]


def of_signals(rule: Rule) -> Rule:
    """Return the rule of a layer of signals: that of images, with attributes of one axis, where the length is fixed.

    :mod:`qat.graph.decompose.conv1d` makes images of the signals.
    """

    def checked(b: Builder, c: Call) -> str | None:
        specs = [b.specs[name] for name in c.inputs]
        return None if any(None in s.shape[1:] or s.dtype != "float32" for s in specs) else rule(b, c)

    return checked


def conv2d(b: Builder, c: Call) -> str | None:
    """A convolution, of any groups and dilations."""
    window = _window(b, c)
    if window is None:
        return None
    name = b.emit("conv2d", c.inputs, c.output, c.path, _params(c.layer), **window, groups=int(c.layer.groups), channel_axis=-1)
    return activated(b, name, c)


def conv(b: Builder, c: Call) -> str | None:
    """``keras.ops.conv`` of images or signals and a weight, without groups."""
    found = _weight_and_window(b, c)
    if found is None or b.params[found[0]].shape[-2] != b.specs[c.inputs[0]].shape[-1]:
        return None
    weight, window = found
    return b.emit("conv2d", c.inputs[:1], c.output, c.path, {"weight": weight}, **window, groups=1, channel_axis=-1)


def depthwise_conv(b: Builder, c: Call) -> str | None:
    """``keras.ops.depthwise_conv`` of images or signals and a weight."""
    found = _weight_and_window(b, c)
    if found is None or (max(found[1]["dilations"]) > 1 and max(found[1]["strides"]) > 1):
        return None
    weight, window = found
    groups = b.specs[c.inputs[0]].shape[-1]
    attrs = {**window, "groups": groups, "channel_axis": (-2, -1)}
    return b.emit("depthwise_conv2d", c.inputs[:1], c.output, c.path, {"weight": weight}, **attrs)


def _weight_and_window(b: Builder, c: Call) -> tuple[str, dict[str, Any]] | None:
    """Return the weight of a convolution that is an operation, and its strides, padding and dilations."""
    operation, axes, spec = c.layer, len(c.shape) - 2, b.specs[c.inputs[0]]
    weight = b.parameter(c.inputs[1]) if len(c.inputs) == 2 else None
    if weight is None or axes not in (1, 2) or (operation.data_format or "channels_last") != "channels_last":
        return None
    kernel = b.params[weight]
    if kernel.ndim != axes + 2 or (axes == 1 and (None in spec.shape[1:] or spec.dtype != "float32")):
        return None
    strides, dilations = (
        (value,) * axes if isinstance(value, int) else tuple(value) for value in (operation.strides, operation.dilation_rate)
    )
    window = tuple((k - 1) * d + 1 for k, d in zip(kernel.shape, dilations, strict=False))
    padding = _padding(operation, spec, window, strides, c.path)
    return None if padding is None else (weight, {"strides": strides, "padding": padding, "dilations": dilations})


def depthwise_conv2d(b: Builder, c: Call) -> str | None:
    """Filters that each read one channel."""
    name = _by_channel(b, c, c.output, _params(c.layer))
    return None if name is None else activated(b, name, c)


def separable_conv2d(b: Builder, c: Call) -> str | None:
    """Filters that each read one channel, then a convolution of 1x1."""
    layer = c.layer
    between = (*c.shape[:-1], layer.depthwise_kernel.shape[-2] * layer.depthwise_kernel.shape[-1])
    name = _by_channel(b, c, between, {"weight": layer.depthwise_kernel})
    if name is None:
        return None
    params = {"weight": layer.pointwise_kernel, "bias": layer.bias if layer.use_bias else None}
    ones, padding = (1,) * len(layer.strides), ((0, 0),) * len(layer.strides)
    window = {"strides": ones, "padding": padding, "dilations": ones, "groups": 1, "channel_axis": -1}
    return activated(b, b.emit("conv2d", [name], c.output, c.path, params, **window), c)


def conv_transpose2d(b: Builder, c: Call) -> str | None:
    """A transposed convolution without groups or dilations."""
    layer = c.layer
    if layer.data_format != "channels_last" or max(layer.dilation_rate) > 1 or getattr(layer, "groups", 1) != 1:
        return None
    strides, kernel = tuple(layer.strides), tuple(layer.kernel_size)
    extra = layer.output_padding if isinstance(layer.output_padding, (tuple, list)) else (layer.output_padding,) * len(kernel)
    cut = tuple(_cut(layer.padding, k, s, more) for k, s, more in zip(kernel, strides, extra, strict=True))
    attrs = {"strides": strides, "padding": cut, "dilations": tuple(layer.dilation_rate), "groups": 1, "channel_axis": -2}
    return activated(b, b.emit("conv_transpose2d", c.inputs, c.output, c.path, _params(layer), **attrs), c)


def pooling(kind: str) -> Rule:
    """Return the rule of a pooling layer."""

    def rule(b: Builder, c: Call) -> str | None:
        layer = c.layer
        if layer.data_format != "channels_last":
            return None
        kernel, strides = tuple(layer.pool_size), tuple(layer.strides)
        padding = _padding(layer, b.specs[c.inputs[0]], kernel, strides, c.path)
        return b.emit(kind, c.inputs, c.output, c.path, kernel=kernel, strides=strides, padding=padding)

    return rule


def adaptive_average(b: Builder, c: Call) -> str | None:
    """An adaptive average of windows of one size."""
    (_, *sizes, _), (_, *results, _) = b.specs[c.inputs[0]].shape, c.shape
    if (
        c.layer.data_format != "channels_last"
        or None in sizes
        or any((n or 0) % (m or 1) for n, m in zip(sizes, results, strict=True))
    ):
        return None
    kernel = tuple((n or 0) // (m or 1) for n, m in zip(sizes, results, strict=True))
    return b.emit("avg_pool2d", c.inputs, c.output, c.path, kernel=kernel, strides=kernel, padding=((0, 0), (0, 0)))


def global_average(b: Builder, c: Call) -> str | None:
    """The mean over an image."""
    if c.layer.data_format != "channels_last":
        return None
    axes = tuple(range(1, len(b.specs[c.inputs[0]].shape) - 1))
    return b.emit("mean", c.inputs, c.output, c.path, axes=axes, keepdims=bool(c.layer.keepdims))


def zero_padding(b: Builder, c: Call) -> str | None:
    """Zeros around an image."""
    if c.layer.data_format != "channels_last":
        return None
    sides = [c.layer.padding] if len(c.shape) == 3 else c.layer.padding
    return b.emit("pad", c.inputs, c.output, c.path, padding=tuple(tuple(int(n) for n in side) for side in sides))


def pad(b: Builder, c: Call) -> str | None:
    """``keras.ops.pad``: zeros around an image, or nothing."""
    amounts, shape = c.layer.pad_width, b.specs[c.inputs[0]].shape
    others = [*c.arguments.args[1:], *c.arguments.kwargs.values()]
    if not np.any(amounts):
        return c.inputs[0]
    zeros = c.layer.mode == "constant" and not any(value is not None and np.any(np.asarray(value)) for value in others)
    if not zeros or len(amounts) != 4 or np.any([amounts[0], amounts[3]]) or None in shape[1:]:
        return None
    sides = tuple((int(first), int(last)) for first, last in amounts[1:3])
    return b.emit("pad", c.inputs, c.output, c.path, padding=sides)


def resizing(b: Builder, c: Call) -> str | None:
    """Resize to a multiple by nearest neighbours: an up-sampling, which takes integers, where this layer casts."""
    layer, (_, *sizes, _), (_, *results, _) = c.layer, b.specs[c.inputs[0]].shape, c.shape
    if layer.interpolation != "nearest" or layer.data_format != "channels_last" or len(sizes) != 2 or None in sizes:
        return None
    factors = tuple((n or 0) // (m or 1) for n, m in zip(results, sizes, strict=True))
    multiple = all(n == (m or 0) * f for n, m, f in zip(results, sizes, factors, strict=True))
    if not multiple or ((layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio) and factors[0] != factors[1]):
        return None
    upsampling = keras.layers.UpSampling2D(factors, name=c.path.replace("/", "_"))
    return b.keep("move", upsampling, c.inputs, [c.output], c.path)[0]


def _params(layer: keras.layers.Layer) -> dict[str, Any]:
    return {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}


def _by_channel(b: Builder, c: Call, output: Any, params: dict[str, Any]) -> str | None:
    window = _window(b, c)
    if window is None or (max(window["dilations"]) > 1 and max(window["strides"]) > 1):
        return None
    groups = b.specs[c.inputs[0]].shape[-1]
    return b.emit("depthwise_conv2d", c.inputs, output, c.path, params, **window, groups=groups, channel_axis=(-2, -1))


def _window(b: Builder, c: Call) -> dict[str, Any] | None:
    """Return a convolution's strides, padding and dilations; None for a layout or a padding without a kind."""
    layer = c.layer
    if layer.data_format != "channels_last":
        return None
    strides, dilations = tuple(layer.strides), tuple(layer.dilation_rate)
    window = tuple((k - 1) * d + 1 for k, d in zip(layer.kernel_size, dilations, strict=True))
    padding = _padding(layer, b.specs[c.inputs[0]], window, strides, c.path)
    return None if padding is None else {"strides": strides, "padding": padding, "dilations": dilations}


def _padding(
    layer: keras.Operation, spec: TensorSpec, window: tuple[int, ...], strides: tuple[int, ...], path: str
) -> Padding | None:
    if layer.padding == "valid":
        return ((0, 0),) * len(window)
    if layer.padding == "causal":
        return tuple((k - 1, 0) for k in window)
    if layer.padding != "same":
        return None
    both = same_padding(spec.shape[1:-1], window, strides)
    if both is None:
        raise CaptureError(f"{path}: padding 'same' needs a fixed image size: give keras.Input(shape=(height, width, channels))")
    return both


def _cut(padding: str, kernel: int, stride: int, extra: int | None) -> tuple[int, int]:
    """Return what a transposed convolution cuts off each end of an axis of ``stride * (size - 1) + kernel`` elements."""
    if padding == "valid":
        total = -extra if extra is not None else min(kernel - stride, 0)
        return 0, total
    total = kernel - stride if extra is None else 2 * (kernel // 2) - extra
    return max(total, 0) // 2, total - max(total, 0) // 2

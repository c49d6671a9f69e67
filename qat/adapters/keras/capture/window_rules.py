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
from .operands import weights_of

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
    params = _filters(b, c, "weight")
    if params is None or b.params[params["weight"]].shape[-2] != b.specs[c.inputs[0]].shape[-1]:
        return None
    window = _window_of(b, c, params["weight"])
    if window is None:
        return None
    return b.emit("conv2d", c.inputs[:1], c.output, c.path, params, **window, groups=1, channel_axis=-1)


def depthwise_conv(b: Builder, c: Call) -> str | None:
    """``keras.ops.depthwise_conv`` of images or signals and a weight."""
    params = _filters(b, c, "weight")
    return None if params is None else _depthwise(b, c, params["weight"], c.output)


def separable_conv(b: Builder, c: Call) -> str | None:
    """``keras.ops.separable_conv`` of images or signals and two weights."""
    params = _filters(b, c, "weight", "pointwise")
    if params is None:
        return None
    pointwise = params["pointwise"]
    name = _depthwise(b, c, params["weight"], (*c.shape[:-1], b.params[pointwise].shape[-2]))
    if name is None:
        return None
    return b.emit("conv2d", [name], c.output, c.path, {"weight": pointwise}, **_pointwise(len(c.shape) - 2), channel_axis=-1)


def conv_transpose(b: Builder, c: Call) -> str | None:
    """``keras.ops.conv_transpose`` of images or signals and a weight."""
    params = _filters(b, c, "weight")
    if params is None or b.params[params["weight"]].shape[-1] != b.specs[c.inputs[0]].shape[-1]:
        return None
    return _transposed(b, c, params, b.params[params["weight"]].shape[:-2])


def _depthwise(b: Builder, c: Call, weight: str, output: Any) -> str | None:
    window = _window_of(b, c, weight)
    if window is None or (max(window["dilations"]) > 1 and max(window["strides"]) > 1):
        return None
    attrs = {**window, "groups": b.specs[c.inputs[0]].shape[-1], "channel_axis": (-2, -1)}
    return b.emit("depthwise_conv2d", c.inputs[:1], output, c.path, {"weight": weight}, **attrs)


def _filters(b: Builder, c: Call, *roles: str) -> dict[str, str] | None:
    """Return the weights, ``weight`` first, of a convolution of images or signals that is an operation."""
    axes, spec = len(c.shape) - 2, b.specs[c.inputs[0]]
    if axes not in (1, 2) or (c.layer.data_format or "channels_last") != "channels_last":
        return None
    if axes == 1 and (None in spec.shape[1:] or spec.dtype != "float32"):
        return None
    found = weights_of(b, c, *roles)
    return found if found is not None and b.params[found["weight"]].ndim == axes + 2 else None


def _window_of(b: Builder, c: Call, weight: str) -> dict[str, Any] | None:
    """Return the strides, the padding and the dilations of a convolution that is an operation."""
    operation, kernel = c.layer, b.params[weight].shape
    strides, dilations = (_of_axes(value, len(kernel) - 2) for value in (operation.strides, operation.dilation_rate))
    window = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=False))
    padding = _padding(operation, b.specs[c.inputs[0]], window, strides, c.path)
    return None if padding is None else {"strides": strides, "padding": padding, "dilations": dilations}


def _of_axes(value: Any, axes: int) -> tuple[int, ...]:
    """Return a number for each axis, where one may stand for all."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes


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
    window = _pointwise(len(layer.strides))
    return activated(b, b.emit("conv2d", [name], c.output, c.path, params, **window, channel_axis=-1), c)


def _pointwise(axes: int) -> dict[str, Any]:
    """Return the window of a convolution of 1x1."""
    ones = (1,) * axes
    return {"strides": ones, "padding": ((0, 0),) * axes, "dilations": ones, "groups": 1}


def conv_transpose2d(b: Builder, c: Call) -> str | None:
    """A transposed convolution without groups or dilations."""
    name = _transposed(b, c, _params(c.layer), tuple(c.layer.kernel_size))
    return None if name is None else activated(b, name, c)


def _transposed(b: Builder, c: Call, params: dict[str, Any], kernel: tuple[int, ...]) -> str | None:
    layer, axes = c.layer, len(kernel)
    strides, dilations = _of_axes(layer.strides, axes), _of_axes(layer.dilation_rate, axes)
    if (layer.data_format or "channels_last") != "channels_last" or max(dilations) > 1 or getattr(layer, "groups", 1) != 1:
        return None
    extra = _of_axes(layer.output_padding, axes)
    cut = tuple(_cut(layer.padding, k, s, more) for k, s, more in zip(kernel, strides, extra, strict=True))
    attrs = {"strides": strides, "padding": cut, "dilations": dilations, "groups": 1, "channel_axis": -2}
    return b.emit("conv_transpose2d", c.inputs[:1], c.output, c.path, params, **attrs)


def pooling(kind: str) -> Rule:
    """Return the rule of a pooling layer, or of the operation of the same meaning."""

    def rule(b: Builder, c: Call) -> str | None:
        layer, axes = c.layer, len(c.shape) - 2
        if (layer.data_format or "channels_last") != "channels_last" or axes not in (1, 2):
            return None
        kernel = _of_axes(layer.pool_size, axes)
        strides = kernel if layer.strides is None else _of_axes(layer.strides, axes)
        padding = _padding(layer, b.specs[c.inputs[0]], kernel, strides, c.path)
        return b.emit(kind, c.inputs, c.output, c.path, kernel=kernel, strides=strides, padding=padding)

    return rule


def pool(kind: str) -> Rule:
    """Return the rule of ``keras.ops.max_pool`` or ``average_pool``, of images or signals."""
    of_images, of_lines = pooling(kind), of_signals(pooling(kind))
    return lambda b, c: (of_lines if len(c.shape) == 3 else of_images)(b, c)


def adaptive(kind: str) -> Rule:
    """Return the rule of an adaptive pooling of images whose windows have one size."""

    def rule(b: Builder, c: Call) -> str | None:
        (_, *sizes, _), (_, *results, _) = b.specs[c.inputs[0]].shape, c.shape
        fixed = c.layer.data_format == "channels_last" and len(sizes) == 2 and None not in sizes
        if not fixed or any((n or 0) % (m or 1) for n, m in zip(sizes, results, strict=True)):
            return None
        kernel = tuple((n or 0) // (m or 1) for n, m in zip(sizes, results, strict=True))
        return b.emit(kind, c.inputs, c.output, c.path, kernel=kernel, strides=kernel, padding=((0, 0), (0, 0)))

    return rule


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


def pad_images(b: Builder, c: Call) -> str | None:
    """``keras.ops.image.pad_images``: zeros around images."""
    operation, shape = c.layer, b.specs[c.inputs[0]].shape
    if operation.data_format != "channels_last" or len(shape) != 4 or None in shape[1:]:
        return None
    given = (operation.top_padding, operation.bottom_padding), (operation.left_padding, operation.right_padding)
    sides = []
    for (before, after), size, made in zip(given, shape[1:3], c.shape[1:3], strict=True):
        added = (made or 0) - (size or 0)
        sides.append((added - after, after) if before is None else (before, added - before))
    return b.emit("pad", c.inputs, c.output, c.path, padding=tuple(sides))


def resizing(b: Builder, c: Call) -> str | None:
    """Resize to a multiple by nearest neighbours: an up-sampling, which takes integers, where this layer casts."""
    layer, (_, *sizes, _), (_, *results, _) = c.layer, b.specs[c.inputs[0]].shape, c.shape
    if layer.interpolation != "nearest" or layer.data_format != "channels_last" or len(sizes) != 2 or None in sizes:
        return None
    factors = tuple((n or 0) // (m or 1) for n, m in zip(results, sizes, strict=True))
    multiple = all(n == (m or 0) * f for n, m, f in zip(results, sizes, factors, strict=True))
    if not multiple or ((layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio) and factors[0] != factors[1]):
        return None
    upsampling = keras.layers.UpSampling2D(factors, "channels_last", name=c.path.replace("/", "_"))
    return b.keep("move", upsampling, c.inputs, [c.output], c.path)[0]


def patches(b: Builder, c: Call) -> str | None:
    """``keras.ops.image.extract_patches`` of patches side by side: the rows of a patch are moved behind the patch's place."""
    layer, spec = c.layer, b.specs[c.inputs[0]]
    strides, dilation = (list(np.broadcast_to(value, len(layer.size))) for value in (layer.strides, layer.dilation_rate))
    plain = len(layer.size) == 2 and strides == list(layer.size) and dilation == [1, 1] and layer.data_format == "channels_last"
    if not plain or len(spec.shape) != 4 or spec.dtype != "float32" or None in spec.shape[1:]:
        return None
    (count, height, width, channels), (high, wide), (_, rows, columns, _) = spec.shape, layer.size, c.shape
    if (height, width) != (rows * high, columns * wide):
        return None
    name = b.reshape(c.inputs[0], (count, rows, high, columns, wide * channels), f"{c.path}_rows", c.path)
    name = b.emit("transpose", [name], (count, rows, columns, high, wide * channels), c.path, axes=(0, 1, 3, 2, 4))
    return b.reshape(name, c.shape, f"{c.path}_patches", c.path)


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
        raise CaptureError(
            f"{path}: padding 'same' needs a fixed image size: give keras.Input a height and a width, or pass example_inputs"
        )
    return both


def _cut(padding: str, kernel: int, stride: int, extra: int | None) -> tuple[int, int]:
    """Return what a transposed convolution cuts off each end of an axis of ``stride * (size - 1) + kernel`` elements."""
    if padding == "valid":
        total = -extra if extra is not None else min(kernel - stride, 0)
        return 0, total
    total = kernel - stride if extra is None else 2 * (kernel // 2) - extra
    return max(total, 0) // 2, total - max(total, 0) // 2

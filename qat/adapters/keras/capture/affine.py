"""Layers that scale and shift: Rescaling and Normalization in front of a net, averages of tensors, scaled branches, PReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from .trace import Builder


def rescaling(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``x * scale + offset``, numbers or one a channel."""
    return _affine(b, inputs[0], output, path, np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64))


def normalization(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``(x - mean) / sqrt(variance)``, or the inverse of that."""
    if layer.mean is None:  # neither given nor adapted, of which Keras itself complains
        return None
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    if layer.invert:
        return _affine(b, inputs[0], output, path, deviation, mean)
    return _affine(b, inputs[0], output, path, 1 / deviation, -mean / deviation)


def _affine(b: Builder, name: str, output: Any, path: str, factor: np.ndarray, shift: np.ndarray) -> str | None:
    """Add ``x * factor + shift`` of frozen arrays.

    Of an image it is a BatchNorm, which is folded into the layer before it or becomes a depthwise convolution of 1x1: one kernel
    with one rounding. (Folded into the convolution after it, it would change what that one's padding stands for.)
    """
    if b.specs[name].dtype != "float32" or str(output.dtype) != "float32" or max(factor.ndim, shift.ndim) > len(output.shape):
        return None
    rows = [_by_channel(array, output.shape[-1]) for array in (factor, shift)]
    if len(output.shape) == 4 and all(row is not None for row in rows):
        count = output.shape[-1]
        arrays = {"gamma": rows[0], "beta": rows[1], "mean": np.zeros(count), "variance": np.ones(count)}
        return b.emit("batch_norm", [name], output, path, arrays, epsilon=0.0, axis=3)
    for kind, array, idle in (("mul", factor, 1.0), ("add", shift, 0.0)):
        if np.any(array != idle):
            laid = array.reshape((1,) * (len(output.shape) - array.ndim) + array.shape)
            name = b.emit(kind, [name, b.constant(laid.astype(np.float32), path)], output, path)
    return name


def _by_channel(array: np.ndarray, channels: int | None) -> np.ndarray | None:
    """Return one value a channel; None for an array that varies otherwise."""
    if array.size == 1 and channels is not None:
        return np.full(channels, array.item())
    return array.ravel() if array.size == channels == array.shape[-1] else None


def average(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """The sum of tensors of one shape, times one over their number."""
    if len(inputs) < 2 or any(b.specs[n].shape != tuple(output.shape) for n in inputs) or str(output.dtype) != "float32":
        return None
    name = inputs[0]
    for other in inputs[1:]:
        name = b.emit("add", [name, other], output, path)
    return b.emit("mul", [name, b.constant(np.full([1] * len(output.shape), 1 / len(inputs), np.float32), path)], output, path)


def scaled_residual(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``x + scale * y`` of InceptionResNetV2; the factor joins the convolution that gives ``y``."""
    scaled = _affine(b, inputs[1], output, path, np.asarray(layer.scale, np.float64), np.zeros(()))
    return None if scaled is None else b.emit("add", [inputs[0], scaled], output, path)


def layer_scale(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``x * gamma`` of ConvNeXt, with one trained number a channel."""
    gamma = b.emit("constant", [], tuple(layer.gamma.shape), path, {"value": layer.gamma})
    return b.emit("mul", [inputs[0], gamma], output, path)


def prelu(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``relu(x) + alpha * min(x, 0)``, with the trained ``alpha``, broadcast over the batch and the shared axes."""
    if any(n is None for n in output.shape[1:]):
        return None
    slope = b.emit("constant", [], tuple(layer.alpha.shape), path, {"value": layer.alpha})
    below = b.emit("mul", [b.emit("clamp", inputs, output, path, low=None, high=0.0), slope], output, path)
    return b.emit("add", [b.emit("relu", inputs, output, path), below], output, path)

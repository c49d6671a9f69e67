"""The rules of layers that scale and shift: Rescaling, Normalization, averages of tensors, scaled branches, PReLU."""

from __future__ import annotations

import keras
import numpy as np

from .builder import Builder
from .layer_calls import Call


def rescaling(b: Builder, c: Call) -> str | None:
    """``x * scale + offset``; scale and offset are numbers, or have one value for each channel."""
    return _affine(b, c.inputs[0], c, np.asarray(c.layer.scale, np.float64), np.asarray(c.layer.offset, np.float64))


def normalization(b: Builder, c: Call) -> str | None:
    """``(x - mean) / sqrt(variance)``, or the inverse of that."""
    layer = c.layer
    if layer.mean is None:  # neither given nor adapted, of which Keras itself complains
        return None
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    if layer.invert:
        return _affine(b, c.inputs[0], c, deviation, mean)
    return _affine(b, c.inputs[0], c, 1 / deviation, -mean / deviation)


def _affine(b: Builder, name: str, c: Call, factor: np.ndarray, shift: np.ndarray) -> str | None:
    """Add ``x * factor + shift`` of frozen arrays.

    Of an image it is a BatchNorm, which is folded into the layer before it or becomes a depthwise convolution of 1x1: one kernel
    with one rounding. (Folded into the convolution after it, it would change the values that the convolution's padding stands
    for.)
    """
    shape = c.shape
    if b.specs[name].dtype != "float32" or str(c.output.dtype) != "float32" or max(factor.ndim, shift.ndim) > len(shape):
        return None
    gamma, beta = (_by_channel(array, shape[-1]) for array in (factor, shift))
    if len(shape) == 4 and gamma is not None and beta is not None:
        arrays = {"gamma": gamma, "beta": beta, "mean": np.zeros(gamma.size), "variance": np.ones(gamma.size)}
        return b.emit("batch_norm", [name], c.output, c.path, arrays, epsilon=0.0, axis=3)
    for kind, array, neutral in (("mul", factor, 1.0), ("add", shift, 0.0)):
        if np.any(array != neutral):
            spread = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
            name = b.emit(kind, [name, b.constant(spread.astype(np.float32), c.path)], c.output, c.path)
    return name


def _by_channel(array: np.ndarray, channels: int | None) -> np.ndarray | None:
    """Return an array as one value for each channel; None where it varies along other axes."""
    if array.size == 1 and channels is not None:
        return np.full(channels, array.item())
    return array.ravel() if array.size == channels == array.shape[-1] else None


def average(b: Builder, c: Call) -> str | None:
    """The sum of tensors of one shape, divided by their number."""
    if len(c.inputs) < 2 or any(b.specs[n].shape != c.shape for n in c.inputs) or str(c.output.dtype) != "float32":
        return None
    name = c.inputs[0]
    for other in c.inputs[1:]:
        name = b.emit("add", [name, other], c.output, c.path)
    share = b.constant(np.full([1] * len(c.shape), 1 / len(c.inputs), np.float32), c.path)
    return b.emit("mul", [name, share], c.output, c.path)


def scaled_residual(b: Builder, c: Call) -> str | None:
    """``x + scale * y`` of InceptionResNetV2; the factor joins the convolution that gives ``y``."""
    scaled = _affine(b, c.inputs[1], c, np.asarray(c.layer.scale, np.float64), np.zeros(()))
    return None if scaled is None else b.emit("add", [c.inputs[0], scaled], c.output, c.path)


def layer_scale(b: Builder, c: Call) -> str | None:
    """``x * gamma`` of ConvNeXt, with one trained number for each channel."""
    gamma = b.emit("constant", [], tuple(c.layer.gamma.shape), c.path, {"value": c.layer.gamma})
    return b.emit("mul", [c.inputs[0], gamma], c.output, c.path)


def prelu(b: Builder, c: Call) -> str | None:
    """``relu(x) + alpha * min(x, 0)``, with the trained ``alpha``, broadcast over the batch and the shared axes."""
    if None in c.shape[1:] or not c.layer.built:  # an activation of a layer has no slopes before its first call
        return None
    alpha = c.layer.alpha
    slope = b.emit("constant", [], tuple(alpha.shape), c.path, {"value": alpha})
    below = b.emit("mul", [b.emit("clamp", c.inputs, c.output, c.path, low=None, high=0.0), slope], c.output, c.path)
    return b.emit("add", [b.emit("relu", c.inputs, c.output, c.path), below], c.output, c.path)

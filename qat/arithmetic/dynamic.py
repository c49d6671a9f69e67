"""The arithmetic of dynamic kernels, in NumPy: the activation's grid is chosen as the kernel runs.

``kernels`` are, each seen equal to its runtime in every bit:

- ``mlas``: ONNX's DynamicQuantizeLinear and ONNX Runtime's integer products; one range for the whole tensor.
- ``xnnpack``: LiteRT's delegate (XNNPACK src/xnnpack/quantization.h, ``xnn_f32_qd8_asymmetric_quantization_params``).
- ``builtin``, ``builtin_depthwise``, ``builtin_groups``: TFLite's own hybrid kernels, which run what the delegate leaves
  (tflite/kernels/internal/portable_tensor_utils.cc, ``AsymmetricQuantizeFloats``); the last is its reference kernel, which runs
  convolutions in groups (reference/conv.h, ``HybridConvPerChannel``).

The ranges of the last four are one a sample. The delegate has one a row for dense layers and, since it runs them as such, one a
pixel for convolutions of 1x1 without strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .grid import f32, round_half_away


def range_axes(
    spatial: bool, strides: Sequence[int], kernels: str, shape: Sequence[int], window: Sequence[int], channel_axis: int
) -> tuple[int, ...]:
    """Return the axes of an activation that share one range.

    Args:
        spatial: whether the layer is a convolution, not a dense one.
        strides: of a convolution.
        kernels: the arithmetic.
        shape: of the activation.
        window: the height and width of a convolution's weight.
        channel_axis: of the activation.
    """
    if kernels == "mlas":
        return tuple(range(len(shape)))
    if not spatial:
        return (len(shape) - 1,)
    if kernels == "xnnpack" and tuple(window) == tuple(strides) == (1, 1):
        return (channel_axis,)
    return tuple(range(1, len(shape)))


def on_grid(x: np.ndarray, axes: tuple[int, ...], kernels: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``x`` as integers less their zero point, in float32, and their scale, which broadcasts against ``x``."""
    x = np.asarray(x, f32)
    low = np.minimum(x.min(axes, keepdims=True), f32(0.0))
    high = np.maximum(x.max(axes, keepdims=True), f32(0.0))
    return _ON_GRID.get(kernels, _builtin_grid)(x, low, high)


def _mlas_grid(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.where(low == high, f32(1.0), (high - low) / f32(255.0)).astype(f32)
    zero_point = np.rint(np.clip(-low / scale, 0, 255))
    return (np.clip(np.rint(x / scale) + zero_point, 0, 255) - zero_point).astype(f32), scale


def _xnnpack_grid(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = low == high
    inverse = np.where(flat, f32(1.0), f32(255.0) / np.where(flat, f32(1.0), high - low))
    from_low, from_high = f32(-128.0) - low * inverse, f32(127.0) - high * inverse
    nearer = (f32(-128.0) + low * inverse) + (f32(127.0) + high * inverse) > 0
    zero_point = np.rint(np.clip(np.where(nearer, from_low, from_high), -128, 127))
    q = np.rint(x * inverse) + zero_point
    return (np.clip(q, -128, 127) - zero_point).astype(f32), (f32(1.0) / inverse).astype(f32)


def _builtin_grid(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = low == high
    span = np.where(flat, f32(1.0), high - low)
    scale = np.where(flat, f32(1.0), span / f32(255.0)).astype(f32)
    # The zero point by the scale before it is rounded to float32.
    low, high = (end.astype(np.float64) / (span.astype(np.float64) / 255.0) for end in (low, high))
    zero_point = np.where(128.0 + np.abs(low) < 127.0 + np.abs(high), -128.0 - low, 127.0 - high)
    zero_point = round_half_away(np.clip(zero_point, -128, 127)).astype(f32)
    q = round_half_away(x * (f32(1.0) / scale)) + zero_point
    return (np.clip(q, -128, 127) - zero_point).astype(f32), scale


#: The grid of an activation in each arithmetic; TFLite's own kernels share one.
_ON_GRID: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "mlas": _mlas_grid,
    "xnnpack": _xnnpack_grid,
}


def one_by_one(channels: int) -> np.ndarray:
    """Return whether TFLite's depthwise kernel computes a channel singly, in another order of products: those beyond fours."""
    return np.arange(channels) >= channels // 4 * 4


def dequantize_accumulator(
    acc: np.ndarray, x_scale: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, kernels: str
) -> np.ndarray:
    """Return an accumulator's real values; scales and bias broadcast against it. The order of products is the kernel's."""
    acc, offset = np.asarray(acc, f32), f32(0.0) if bias is None else np.asarray(bias, f32)
    return np.asarray(_SCALED.get(kernels, _scaled)(acc, x_scale, scale) + offset, f32)


def _scaled(acc: np.ndarray, x_scale: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray(acc * (x_scale * scale))


def _xnnpack_scaled(acc: np.ndarray, x_scale: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray((acc * x_scale).astype(np.float64) * scale.astype(np.float64))


def _depthwise_scaled(acc: np.ndarray, x_scale: np.ndarray, scale: np.ndarray) -> np.ndarray:
    single = one_by_one(np.size(scale)).reshape(np.shape(scale))
    return np.asarray((acc * np.where(single, x_scale, scale)) * np.where(single, scale, x_scale))


def _groups_scaled(acc: np.ndarray, x_scale: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray((acc * scale) * x_scale)


#: The scaled accumulator in each arithmetic.
_SCALED: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "xnnpack": _xnnpack_scaled,
    "builtin_depthwise": _depthwise_scaled,
    "builtin_groups": _groups_scaled,
}

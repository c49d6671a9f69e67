"""What x86 processors without VNNI make of 8-bit weights on uint8 activations, computed in NumPy on any processor.

Their instruction VPMADDUBSW adds two products of a uint8 and an int8 and saturates the sum at 16 bits. Source: Intel 64 and IA-32
Architectures Software Developer's Manual, volume 2, PMADDUBSW; ONNX Runtime's advice:
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .steps import Step
from .sums import ratio_in_db

_LIMIT = 2**15 - 1
#: The largest weight in magnitude: larger ones are of uint8, for which there is another kernel.
_LARGEST = 128
#: Windows of a batch that are computed, and elements of one block of products.
_WINDOWS, _BLOCK = 256, 1 << 22


def saturation(windows: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return the share of sums of two products that saturate, and the SQNR that they leave in the accumulators, in dB.

    Args:
        windows: what each output reads, ``[windows, k]`` of uint8.
        weight: ``[channels, k]`` of int8.

    Examples:
        >>> saturation(np.full((1, 2), 255, np.uint8), np.full((1, 2), 127, np.int8))[0]
        1.0
    """
    if windows.shape[1] % 2:
        windows, weight = (np.pad(x, ((0, 0), (0, 1))) for x in (windows, weight))
    x, w = windows.astype(np.int32), weight.astype(np.int32)
    rows = max(_BLOCK // max(w.size, 1), 1)
    exact, cut, count = [], [], 0
    for start in range(0, len(x), rows):
        products = x[start : start + rows, None, :] * w[None]
        pairs = products[..., 0::2] + products[..., 1::2]
        clipped = np.clip(pairs, -_LIMIT - 1, _LIMIT)
        exact.append(pairs.sum(-1))
        cut.append(clipped.sum(-1))
        count += int((pairs != clipped).sum())
    whole, wrong = np.concatenate(exact).astype(np.float64), np.concatenate(cut).astype(np.float64)
    share = count / (whole.size * windows.shape[1] / 2)
    # About each channel's mean: the zero point's part of an accumulator is no signal.
    signal = float(np.square(whole - whole.mean(0)).mean()) if len(whole) > 1 else float(np.square(whole).mean())
    return share, ratio_in_db(signal, float(np.square(whole - wrong).mean()))


def windows_of(x: np.ndarray, weight: np.ndarray, attributes: Mapping[str, Any], zero_point: int) -> np.ndarray | None:
    """Return some of the windows that a convolution reads, channels innermost as the kernel has them; None where it groups them.

    Args:
        x: ``[batch, channels, height, width]`` of uint8.
        weight: ``[outputs, channels, height, width]``.
        attributes: of the ONNX operator.
        zero_point: of ``x``, which pads it.
    """
    if attributes.get("group", 1) != 1 or x.ndim != 4 or weight.ndim != 4:
        return None
    height, width = weight.shape[2:]
    dilations, strides = attributes.get("dilations", [1, 1]), attributes.get("strides", [1, 1])
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero_point)
    reach = ((height - 1) * dilations[0] + 1, (width - 1) * dilations[1] + 1)
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    views = views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    found = views.transpose(0, 2, 3, 4, 5, 1)
    places = np.linspace(0, int(np.prod(found.shape[:3])) - 1, min(_WINDOWS, int(np.prod(found.shape[:3])))).astype(int)
    n, i, j = np.unravel_index(places, found.shape[:3])
    return found[n, i, j].reshape(len(places), -1)


def saturation_of(step: Step, x: np.ndarray, zero_point: int) -> tuple[float, float] | None:
    """Return :func:`saturation` of a step on its inputs; None where its kernel is another: no uint8, no 8 bits, groups."""
    weight = step.weight
    if weight is None or weight.stored is None or x.dtype != np.uint8:
        return None
    if weight.bits != 8 or np.abs(weight.stored).max() > _LARGEST:
        return None
    if step.kind == "conv":
        windows = windows_of(x, weight.stored, step.attributes, zero_point)
        flat = np.moveaxis(weight.stored, 1, -1).reshape(len(weight.stored), -1)
    else:
        flat = weight.stored.reshape(len(weight.stored), -1)
        windows = x.reshape(-1, flat.shape[1])[:_WINDOWS] if x.size % flat.shape[1] == 0 else None
    return None if windows is None or windows.shape[1] != flat.shape[1] else saturation(windows, flat)

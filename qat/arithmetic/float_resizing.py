"""Where the float kernels of bilinear resizing read an axis, in float32 as each runtime computes it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .grid import f32


class Places(NamedTuple):
    """The two elements that each place of a resized axis lies between, and the weights of both.

    XNNPACK's kernel computes ``first + (second - first) * after`` and has no use for ``before``.
    """

    first: np.ndarray
    second: np.ndarray
    before: np.ndarray
    after: np.ndarray


def of_onnxruntime(size: int, out: int, aligned: bool, factor: float | None = None) -> Places:
    """Return the places of ONNX Runtime's Resize, ``align_corners`` or ``pytorch_half_pixel``.

    ``SetupUpsampleBilinear`` of onnxruntime/core/providers/cpu/tensor/upsamplebase.h.

    Args:
        size: of the axis.
        out: its size afterwards.
        aligned: whether the corners keep their places, instead of the borders.
        factor: that the file holds in place of ``out``.
    """
    step, index = f32(factor) if factor else f32(out) / f32(size), np.arange(out, dtype=f32)
    if step == 1:
        at = index
    elif out == 1:
        at = np.zeros(1, f32)
    elif aligned:
        at = index * f32(size - 1) / f32(out - 1)
    else:
        at = (index + f32(0.5)) / step - f32(0.5)
    at = np.clip(at, f32(0), f32(size - 1))
    first, second = _neighbours(at, size)
    before, after = np.abs(at - second.astype(f32)), np.abs(at - first.astype(f32))
    before[first == second] = after[first == second] = 0.5
    return Places(first, second, before, after)


def of_xnnpack(size: int, out: int, aligned: bool) -> Places:
    """Return the places of a float RESIZE_BILINEAR, ``align_corners`` or ``half_pixel_centers``.

    ``xnn_indirection_init_resize_bilinear2d_hwc_f32`` of XNNPACK's src/indirection.c.
    """
    fixed = aligned and out > 1
    step, index = f32(size - fixed) / f32(out - fixed), np.arange(out, dtype=f32)
    at = np.clip(index * step + (f32(0) if aligned else f32(0.5) * step - f32(0.5)), f32(0), f32(size - 1))
    first, second = _neighbours(at, size)
    after = at - first.astype(f32)
    return Places(first, second, f32(1) - after, after)


def _neighbours(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    first = at.astype(np.int64)
    return first, np.minimum(first + 1, size - 1)

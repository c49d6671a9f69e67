"""Bilinear up-sampling by whole factors, between the centres of pixels, in integers: for each runtime with a kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import mlas
from .encoding import Encoding
from .grid import f32

#: The shares of neighbouring pixels that XNNPACK computes with are multiples of the inverse of this number.
UNIT = 2048


def neighbours(size: int, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each place of an up-sampled axis, the pixels before and after it, and the share of the latter in ``UNIT``.

    XNNPACK's src/indirection.c, ``xnn_indirection_init_resize_bilinear2d_hwc_q11``, in float32 as there.
    """
    scale = f32(size) / f32(size * factor)
    at = np.arange(size * factor, dtype=f32) * scale + (f32(0.5) * scale - f32(0.5))
    at = np.clip(at, f32(0), f32(size - 1))
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), np.rint((at - before.astype(f32)) * f32(UNIT)).astype(np.int64)


def by_shares(x: np.ndarray, factors: tuple[int, int], encoding: Encoding) -> np.ndarray:
    """Return ``x`` [n, c, h, w] up-sampled as XNNPACK does: one scale in and out, halves up (src/s8-ibilinear/scalar.c.in)."""
    x = np.asarray(x, np.int64)
    for axis, factor in zip((2, 3), factors, strict=True):
        before, after, share = neighbours(x.shape[axis], factor)
        first, second = np.take(x, before, axis), np.take(x, after, axis)
        x = first * UNIT + (second - first) * share.reshape(-1, *[1] * (3 - axis))
    return np.clip((x + UNIT**2 // 2) // UNIT**2, encoding.lo, encoding.hi).astype(f32)


#: By the name of a runtime's arithmetic.
UPSAMPLING: dict[str, Callable[[np.ndarray, tuple[int, int], Encoding], np.ndarray]] = {
    "mlas": mlas.upsample_bilinear2d,
    "xnnpack": by_shares,
}

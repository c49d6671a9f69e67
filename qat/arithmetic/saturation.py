"""Where functions of one tensor stop changing: values beyond need no integers of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from .lookup import real

#: What counts as infinitely far, and how far from its value there a function may be, as a share of its spread from -1 to 1.
_FAR, _NEAR = 1e4, 1e-6
#: The numbers that are tried, from zero on.
_TRIED = np.concatenate([np.linspace(0.0, 64.0, 64 * 32 + 1), np.geomspace(64.0, _FAR, 513)[1:]])

#: Low and high end; None where there is none.
Bounds = tuple[float | None, float | None]


def saturation(kind: str, attrs: Mapping[str, Any]) -> Bounds:
    """Return the numbers below and above which a function is constant; zero lies between them.

    Examples:
        >>> saturation("hard_swish", {}), saturation("hard_sigmoid", {})
        ((-3.0, None), (-3.0, 3.0))
    """
    return _found(kind, tuple(sorted(attrs.items())))


@lru_cache(maxsize=256)
def _found(kind: str, attrs: tuple[tuple[str, Any], ...]) -> Bounds:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        spread = float(np.ptp(real(kind, dict(attrs), np.linspace(-1.0, 1.0, 65))))
        if not np.isfinite(spread):  # a pole
            return None, None
        low, high = (_end(real(kind, dict(attrs), sign * _TRIED), _NEAR * spread) for sign in (-1, 1))
    return None if low is None else -low, high


def _end(values: np.ndarray, tolerance: float) -> float | None:
    """Return the first number tried from which on the values stay the last one; None where there is none."""
    if not np.isfinite(values).all():
        return None
    moving = np.flatnonzero(np.abs(values - values[-1]) > tolerance)
    first = int(moving[-1]) + 1 if len(moving) else 0
    return float(_TRIED[first]) if first < len(values) // 2 else None


def union(bounds: list[Bounds]) -> Bounds:
    """Return the bounds beyond which all of several functions are constant."""
    lows, highs = zip(*bounds, strict=True)
    return None if None in lows else min(lows), None if None in highs else max(highs)

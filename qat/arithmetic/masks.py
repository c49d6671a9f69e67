"""Masked scores: how far below its row's greatest score a hidden one lies, so that a softmax makes nothing of it."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

#: A hidden score in float: a softmax makes 0 of it, and of a row of such scores equal shares.
HIDDEN = -1e9
#: The number that shows a score, and hides it where it is negative: beyond the integers of 8 bits.
SHOWN = 1000.0
#: What is added to a score and is not above this hides it: the score's share of a softmax is below float32's precision.
HIDES = -32.0
#: No scores are multiplied by a number as large: a mask is.
FAR = 1000.0
#: The reason in a plan why operators that only make a mask stay float.
MAKES_MASK = "it makes a mask, of which the scores' kernel reads the integers"
#: The reason where a mask takes part in more than a kernel hides.
TAKES_PART = "a mask takes part in these scores: one scale for both would leave the scores no integers"
#: What hidden scores may take of a softmax, all together: less than a tenth of its step of 1/256.
_SHARE = math.exp(-8.0)
#: A row's length where it is not known beforehand.
_LENGTH = 1024


def reach(length: int | None) -> float:
    """Return how far below the greatest of a row of ``length`` scores lie scores of which a softmax makes nothing."""
    return math.log((length or _LENGTH) / _SHARE)


def only_hides(numbers: Collection[float]) -> bool:
    """Return whether numbers, of which none are known where there are many, are added to scores only to hide them."""
    return bool(numbers) and min(numbers) <= HIDES and all(n == 0 or n <= HIDES for n in numbers)


def only_limits(numbers: Collection[float]) -> bool:
    """Return whether a minimum with numbers only hides scores: each lies far below all scores, or far above."""
    return bool(numbers) and min(numbers) <= HIDES and all(n <= HIDES or n >= FAR for n in numbers)


def spread(x: np.ndarray, shown: np.ndarray, reach: float) -> np.ndarray:
    """Return the values that one scale for masked scores has to hold, in the rows of which a score is shown.

    A hidden score needs no integer of its own, but one that is ``reach`` below its row's greatest: so it is shown here, and so
    is any score below that.

    Args:
        x: real scores.
        shown: above 0 where a score is shown; broadcasts.
        reach: from :func:`reach`, in the scores' unit.
    """
    seen = np.where(shown > 0, x, -np.inf)
    greatest = seen.max(-1, keepdims=True)
    rows = np.isfinite(greatest[..., 0])
    return np.maximum(seen, greatest - np.float32(reach))[rows]

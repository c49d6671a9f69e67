"""The spread of an output's values, in which its errors are told."""

from __future__ import annotations

import numpy as np

#: A variance is taken for at least this share of the mean square: what hardly varies, a score that is 1 for all samples, has
#: none to speak of, and its errors would outweigh those of all other outputs.
LEAST = 1e-3


def spread(values: np.ndarray) -> float:
    """Return the standard deviation of values, at least a thirtieth of their root mean square; 1 of zeros.

    Examples:
        >>> spread(np.array([-1.0, 1.0])), round(spread(np.array([0.9999, 1.0001])), 4)
        (1.0, 0.0316)
    """
    real = values.astype(np.float64)
    return float(np.sqrt(max(real.var(), LEAST * np.square(real).mean()))) or 1.0

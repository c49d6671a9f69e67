"""How the outputs of a file differ from those of a reference, as a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .html.plots import Histogram, histogram

#: The most values of an output that are counted: more take time and change no bar.
_MOST = 1_000_000


def differences(name: str, reference: str, outputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> Histogram | None:
    """Return how often outputs differ by how much; None where no output has the shape of the reference's.

    Args:
        name, reference: what both files are called.
        outputs, wanted: of all samples.
    """
    parts = [_thinned(error_of(a, b)) for a, b in zip(outputs, wanted, strict=False) if a.shape == b.shape]
    if not sum(map(len, parts)):
        return None
    return histogram("Differences of the outputs", f"output of {name} less that of {reference}", [(name, np.concatenate(parts))])


def error_of(outputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return outputs less those of a reference, in float64; 0 where both are the same infinity, that of a masked score."""
    a, b = outputs.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _thinned(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1)
    flat = flat[:: max(1, len(flat) // _MOST)]
    return flat[np.isfinite(flat)]

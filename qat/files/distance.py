"""How far a quantized model's outputs are from the float ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.trainers.output_losses import OutputLosses


def error_percent(got: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> float:
    """Return the root mean square of the difference as a share of the outputs' spread, in percent; the largest output's."""
    return max(_error(a, b) for a, b in zip(got, real, strict=True))


def _error(got: np.ndarray, real: np.ndarray) -> float:
    wide = real.astype(np.float64)
    spread = float(np.sqrt(np.square(wide - wide.mean()).mean()))
    off = float(np.sqrt(np.square(got.astype(np.float64) - wide).mean()))
    return 0.0 if off == 0 else 100 * off / max(spread, 1e-12)


def agreement_percent(got: Sequence[np.ndarray], real: Sequence[np.ndarray], losses: OutputLosses) -> float | None:
    """Return the share of rows in which the same class is largest, over the outputs that are classes; None without any."""
    pairs = [(a, b, one.axis) for a, b, one in zip(got, real, losses.each, strict=True) if one.name == "kl"]
    if not pairs:
        return None
    same = [(a.argmax(axis) == b.argmax(axis)).ravel() for a, b, axis in pairs]
    return 100 * float(np.concatenate(same).mean())

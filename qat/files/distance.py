"""How far a quantized model's outputs are from the float ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.trainers.output_losses import OutputLosses


def same_answers(got: Sequence[np.ndarray], real: Sequence[np.ndarray], losses: OutputLosses) -> np.ndarray | None:
    """Return for each row of the outputs that are classes whether the same class is largest, ``[rows]``; None without any."""
    pairs = [(a, b, one.axis) for a, b, one in zip(got, real, losses.each, strict=True) if one.name == "kl"]
    if not pairs:
        return None
    return np.concatenate([(a.argmax(axis) == b.argmax(axis)).ravel() for a, b, axis in pairs])


def agreement_percent(got: Sequence[np.ndarray], real: Sequence[np.ndarray], losses: OutputLosses) -> float | None:
    """Return the share of rows in which the same class is largest, over the outputs that are classes; None without any."""
    same = same_answers(got, real, losses)
    return None if same is None else 100 * float(same.mean())

"""What is known of a weight and a bias without running them."""

from __future__ import annotations

import numpy as np

from .matching import Pair
from .measured import WeightFacts

_INT32 = 2.0**31 - 1


def weight_facts(pair: Pair, input_scale: float | None) -> WeightFacts | None:
    """Return the facts of a pair's weight; None of a step without one, or that is stored in float.

    Args:
        pair: the step in both files.
        input_scale: of the quantized step's input; None where that is float.
    """
    real, stored = pair.float.weight, pair.quantized.weight
    if real is None or stored is None or stored.stored is None:
        return None
    peaks = np.abs(real.real.reshape(len(real.real), -1)).max(1)
    middle = float(np.median(peaks))
    per_channel = stored.scale is not None and stored.scale.size > 1
    return WeightFacts(
        bits=stored.bits,
        per_channel=per_channel,
        channel_ratio=float(peaks.max()) / middle if middle > 0 else float("inf"),
        largest_bias=_largest_bias(pair, stored.scale, input_scale),
        stored_bias=0.0 if pair.quantized.stored_bias is None else float(np.abs(pair.quantized.stored_bias).max()) / _INT32,
    )


def _largest_bias(pair: Pair, scale: np.ndarray | None, input_scale: float | None) -> float:
    """Return the largest float bias on the grid of the accumulator, in units of int32's limit."""
    bias = pair.float.bias
    if bias is None or scale is None or input_scale is None or scale.size not in (1, bias.size):
        return 0.0
    return float(np.max(np.abs(bias) / (input_scale * scale.astype(np.float64)))) / _INT32

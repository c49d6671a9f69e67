"""Pixels are scaled once: by the data, or by a model that begins with a scaling of its own."""

from __future__ import annotations

import logging

import numpy as np

from qat.graph.own_scaling import OwnScaling, own_scaling
from qat.typing import Traced

from .config import DataConfig

log = logging.getLogger("qat")

#: A model that makes less than this of the width of its inputs leaves them nearly constant.
_NARROW = 0.1


def scaling_of(traced: Traced) -> OwnScaling | None:
    """Return the scaling by which a captured model of one input begins, or None."""
    found = own_scaling(traced.graph, traced.params)
    return next(iter(found.values())) if len(traced.graph.inputs) == 1 and found else None


def warn_of_double_scaling(traced: Traced, example: np.ndarray, data: DataConfig) -> None:
    """Warn where the data are scaled, and the model scales them again. ``example`` is a batch as training sees it."""
    scaling = scaling_of(traced)
    if scaling is None or not np.issubdtype(example.dtype, np.floating):
        return
    low, high = float(example.min()), float(example.max())
    width, factor = scaling.width(low, high), float(np.abs(scaling.factor).max())
    if width < _NARROW and factor < _NARROW:
        log.warning(
            "the model's own '%s' multiplies its input by %.3g, and the data lie between %.3g and %.3g: scaled twice, they "
            "differ by %.2g at most; data.scale: 1 hands the model pixels from 0 to 255", scaling.layer, factor, low, high, width,
        )  # fmt: skip
    elif np.any(scaling.offset != 0) and (np.any(np.asarray(data.mean) != 0) or np.any(np.asarray(data.std) != 1)):
        log.warning(
            "the model's own '%s' normalizes its input, and data.mean and data.std do so too: leave them out, or is this meant?",
            scaling.layer,
        )  # fmt: skip

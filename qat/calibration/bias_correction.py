"""Bias correction: what quantization adds to a channel on average is taken off its bias.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and, for the form
that measures on samples layer by layer, appendix D.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from .layerwise import Layer, Layerwise, by_group

log = logging.getLogger("qat")


def correct_biases(model: Any, samples: Iterable[Any]) -> Any:
    """Make every channel's mean over the samples, before its activation, that of the float model.

    Layers are corrected in order, each with the inputs that the layers before it, corrected already, give it on the grid. A
    layer without a bias stays as it is.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`; changed in place.
        samples: as for :func:`qat.calibrate`; kept in memory.

    Returns:
        The model itself.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        DataError: no samples, or one with NaN or infinite values.
    """
    with Layerwise(model, samples, "correct_biases") as walk:
        layers = [layer for layer in walk.layers if layer.bias is not None]
        for layer in layers:
            layer.bias -= mean_error(layer)
    if not layers:
        log.warning("correct_biases: no integer layer of the model has a bias")
    return model


def mean_error(layer: Layer) -> np.ndarray:
    """Return what each channel's mean on the grid is above that in float, before the activation, ``[groups, outputs]``."""
    scale, (real, real_bias), bias = layer.scale, layer.real, layer.bias
    held = layer.nearest(layer.weight, scale) * scale
    # A layer is linear: the mean of its outputs is its output for the mean of the windows.
    count, total = 0, np.zeros(layer.shape[:2])
    for on_grid, in_float in layer.inputs():
        places = tuple(range(on_grid.ndim - 1 - len(layer.kernel)))
        means = (by_group(x.mean(places, np.float64)[None], len(real))[:, 0, :, None] for x in (on_grid, in_float))
        total += len(on_grid) * (held @ next(means) - real @ next(means))[..., 0]
        count += len(on_grid)
    error = total / count
    return error if bias is None or real_bias is None else error + bias - real_bias

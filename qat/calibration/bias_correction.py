"""Bias correction: the mean error that quantization adds to a channel is taken off its bias.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and, for the form
that measures on samples layer by layer, appendix D.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from qat.display.progress import shown, tracked
from qat.graph.receptive_windows import windows
from qat.planning.output_layers import output_layers
from qat.typing import P, PreparedModel, Samples

from .layerwise import Layer, Layerwise, by_group

log = logging.getLogger("qat")


def correct_biases(model: P, samples: Samples, *, progress: bool = True) -> P:
    """Shift every bias so that each channel has, on average over the samples, the value that it has in the float model.

    The mean is that before the activation. Layers are corrected in order: each one reads, on the grid, the outputs of the
    layers before it, which are corrected already. A layer without a bias is not changed.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`; changed in place.
        samples: as for :func:`qat.calibrate`; kept in memory.
        progress: as for :func:`qat.calibrate`.

    Returns:
        The model itself.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        ConfigError: the model is of ``tf_keras``.
        DataError: no samples, or one with NaN or infinite values.

    Examples:
        >>> import numpy as np, qat, torch
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> before = model.bias.tolist()
        >>> qat.correct_biases(model, [x]) is model and model.bias.tolist() != before
        True
    """
    with shown(progress), Layerwise(model, samples, "correct_biases") as walk:
        layers = [layer for layer in walk.layers if layer.bias is not None]
        for layer in tracked(layers, "bias correction"):
            layer.bias -= mean_error(layer)
    if not layers:
        log.warning("correct_biases: no integer layer of the model has a bias")
    return model


class QuickCorrection:
    """The same correction by one pass in float for all layers together: what roundings of activations add is left out of it.

    Source: Nagel et al. 2019, section 4.2, with means that are measured.

    Args:
        model: calibrated.
        samples: that show the means.
    """

    def __init__(self, model: PreparedModel, samples: Samples) -> None:
        self._walk = Layerwise(model, samples, "the bias correction")
        self._layers = [layer for layer in self._walk.layers if layer.bias is not None]
        self._before: list[Any] = [layer.bias for layer in self._layers]

    def apply(self) -> None:
        """Shift the biases by what the rounding of the weights adds to each channel's mean."""
        with self._walk as walk:
            layout = walk.model.plan.graph.layout
            total: list[Any] = [0.0] * len(self._layers)
            for batch in walk.batches:
                values = walk.adapter.float_values(walk.twin, batch)
                for i, layer in enumerate(self._layers):
                    x = values.get(layer.op.inputs[0])
                    if x is None:  # one of several results of an operator
                        x = walk.adapter.layer_input(walk.twin, layer.op.name, batch)
                    total[i] += len(batch[0]) * _mean_window(windows(layer.op, x, layer.kernel, layout), layer)
            samples = sum(len(batch[0]) for batch in walk.batches)
            for layer, found in zip(self._layers, total, strict=True):
                weight, scale = layer.weight, layer.scale
                layer.bias -= ((layer.nearest(weight, scale) * scale - weight) @ (found / samples))[..., 0]

    def take_back(self) -> None:
        """Restore the biases."""
        for layer, bias in zip(self._layers, self._before, strict=True):
            layer.bias = bias


class OutputCorrection:
    """The correction of the layers whose values leave the model, by all of their mean error: roundings of activations add to it.

    Args:
        model: calibrated.
        samples: that show the means.
    """

    def __init__(self, model: PreparedModel, samples: Samples) -> None:
        self._walk = Layerwise(model, samples, "the bias correction")
        plan = model.plan
        last = {planned.op.name for output in plan.graph.outputs for planned in output_layers(plan, output)}
        self._layers = [layer for layer in self._walk.layers if layer.bias is not None and layer.op.name in last]
        self._before: list[Any] = [layer.bias for layer in self._layers]

    def apply(self) -> None:
        """Shift the biases by the mean error of each channel."""
        with self._walk:
            for layer in self._layers:
                layer.bias -= mean_error(layer)

    def take_back(self) -> None:
        """Restore the biases."""
        for layer, bias in zip(self._layers, self._before, strict=True):
            layer.bias = bias


def _mean_window(windows_of_layer: np.ndarray, layer: Layer) -> np.ndarray:
    """Return the mean of the windows of a layer, ``[groups, inputs * taps, 1]``."""
    places = tuple(range(windows_of_layer.ndim - 1 - len(layer.kernel)))
    return by_group(windows_of_layer.mean(places, np.float64)[None], layer.shape[0])[:, 0, :, None]


def mean_error(layer: Layer) -> np.ndarray:
    """Return what each channel's mean on the grid is above that in float, before the activation, ``[groups, outputs]``."""
    scale, (real, real_bias), bias = layer.scale, layer.real, layer.bias
    held = layer.nearest(layer.weight, scale) * scale
    # A layer is linear: the mean of its outputs is its output for the mean of the windows.
    count, total = 0, np.zeros(layer.shape[:2])
    for on_grid, in_float in layer.inputs():
        means = (_mean_window(x, layer) for x in (on_grid, in_float))
        total += len(on_grid) * (held @ next(means) - real @ next(means))[..., 0]
        count += len(on_grid)
    error = total / count
    return error if bias is None or real_bias is None else error + bias - real_bias

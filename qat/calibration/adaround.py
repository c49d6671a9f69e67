"""AdaRound for a model: the rounding of each layer is learned in turn, then fixed in its weights."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from qat.arithmetic.range_estimators import weight_step
from qat.display.progress import shown, tracked
from qat.errors import ConfigError
from qat.typing import P, PreparedModel, Samples

from .adaround_solver import Problem, activate, learn
from .layerwise import Layer, Layerwise, by_group

#: The most rows of samples that a layer learns from, and the most numbers in them.
_ROWS, _NUMBERS = 8192, 2**25
#: The steps of gradient descent of a layer.
_STEPS = 1000
#: The weight of the regularizer against the error: 0.1 to 10 were tried.
_PULL = 1.0


def adaround(model: P, samples: Samples, steps: int = _STEPS, seed: int = 0, *, progress: bool = True) -> P:
    """Learn which way each weight is rounded, layer by layer, so that the layer's outputs stay nearest to the float ones.

    The weights become multiples of their scale, so that the model is exported, or trained further, as any other. A layer gets
    the scale with the least squared error of its weights. A channel whose learned rounding is no better on the samples keeps
    the nearest integers. Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization".

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`; changed in place.
        samples: as for :func:`qat.calibrate`; kept in memory. A few hundred samples are enough.
        steps: of gradient descent, for each layer.
        seed: of the random draw from the samples.
        progress: as for :func:`qat.calibrate`.

    Returns:
        The model itself.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        ConfigError: ``steps`` is below 1, or the model is of ``tf_keras``.
        DataError: no samples, or one with NaN or infinite values.

    Examples:
        >>> import numpy as np, qat, torch
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> qat.adaround(model, [x], steps=10) is model
        True
    """
    if steps < 1:
        raise ConfigError(f"adaround needs at least one step, not {steps}")
    with shown(progress), Layerwise(model, samples, "adaround") as walk:
        for layer in tracked(walk.layers, "AdaRound, layer by layer"):
            _round(layer, steps, seed)
    return model


class LearnedRoundings:
    """AdaRound of chosen layers, which can be taken back.

    Args:
        model: calibrated.
        samples: that the layers learn from.
        layers: by scope.
    """

    def __init__(self, model: PreparedModel, samples: Samples, layers: Container[str]) -> None:
        self._walk = Layerwise(model, samples, "AdaRound")
        self._layers = [layer for layer in self._walk.layers if layer.op.layer in layers]
        self._before = [layer.weight for layer in self._layers]

    def apply(self) -> None:
        """Learn the roundings, and fix them in the weights."""
        with self._walk:
            for layer in tracked(self._layers, "AdaRound of the layers that lose most"):
                _round(layer, _STEPS, 0)

    def take_back(self) -> None:
        """Restore the weights."""
        for layer, weight in zip(self._layers, self._before, strict=True):
            layer.weight = weight


def _round(layer: Layer, steps: int, seed: int) -> None:
    """Learn one layer's rounding and write it into the weight."""
    spec, limit = layer.planned.weight, layer.planned.qmax
    assert spec is not None
    real, _ = layer.real
    problem = _problem(layer, real, seed)
    layer.weight = real
    widest = layer.scale
    plain = layer.nearest(real, widest) * widest
    step = weight_step(real.reshape(-1, real.shape[-1]), limit, 0 if spec.granularity == "channel" else None)
    ends = limit * np.broadcast_to(step.reshape(-1, 1), (real.shape[0] * real.shape[1], 1)).reshape(*real.shape[:2], 1)
    # The largest weight ends where the chosen scale does, so that the scale follows from the weights as ever.
    layer.weight = clipped = np.clip(real, -ends, ends)
    scale = layer.scale
    nearest = layer.nearest(clipped, scale) * scale
    learned = learn(problem, clipped, scale, limit, steps, _PULL, seed) * scale
    chosen = np.where(problem.error(learned) < problem.error(nearest), learned, nearest)
    better = problem.error(chosen) < problem.error(plain)
    if spec.granularity == "tensor":
        better = np.asarray(problem.error(chosen).sum() < problem.error(plain).sum())
    layer.weight = np.where(better, chosen, plain)


def _problem(layer: Layer, real: np.ndarray, seed: int) -> Problem:
    """Draw windows from the samples: the layer's on the grid, and the outputs of its float twin at the same positions."""
    random = np.random.default_rng(seed)
    wanted = min(_ROWS, _NUMBERS // (real.shape[0] * real.shape[2]))
    each = -(-wanted // len(layer.of.batches))
    inputs, targets = [], []
    for on_grid, in_float in layer.inputs():
        places = on_grid.shape[: on_grid.ndim - 1 - len(layer.kernel)]
        count = int(np.prod(places))
        drawn = np.unravel_index(random.choice(count, min(each, count), replace=False), places)
        inputs.append(on_grid[drawn].reshape(len(drawn[0]), len(real), -1))
        targets.append(np.matmul(by_group(in_float[drawn], len(real)), real.swapaxes(1, 2)))
    _, real_bias = layer.real
    bias = np.zeros(real.shape[:2], np.float32) if layer.bias is None else layer.bias
    target = np.concatenate(targets, 1) + (0 if real_bias is None else real_bias[:, None])
    activation = layer.planned.activation
    return Problem(np.concatenate(inputs), activate(target, activation), bias[:, None], activation)

"""The fast way: the loss of every variant to second order, from one pass and a few backward passes.

Where roundings move the outputs by ``d``, a loss that is least at the float outputs grows by ``d' H d / 2``, with the loss's
curvature ``H`` at the float outputs: for KL the Fisher information of the model's own distribution. With ``H = A A'`` and random
signs ``r``, the mean of ``(r' A' d)^2`` is ``d' H d`` (Hutchinson 1990). To first order ``d`` is ``J e``: the Jacobian from the
place of the rounding, times the rounding's error there, which is computed, not modelled. So one backward pass of ``A r`` gives
the products of all places and samples at once.

Source of the second-order view: LeCun, Denker & Solla 1989, "Optimal Brain Damage"; of Fisher in place of the Hessian: Li et al.
2021, "BRECQ", section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from qat.display.progress import bar
from qat.planning.rounding import Variant
from qat.trainers.output_losses import SHARE, TINY, OutputLoss

from .judge import Judge

#: With fewer samples than these a second backward pass is worth its time: the signs are random, and more of them less noise.
_FEW_SAMPLES = 512


def _draws(judge: Judge) -> int:
    """Return how many backward passes each batch gets."""
    return 2 if judge.samples < _FEW_SAMPLES else 1


def evaluations(judge: Judge) -> float:
    """Return what :func:`estimated` costs for each layer and for its weight, in evaluations of the whole model.

    They are the float outputs, the pass whose values are kept, the errors of both roundings, and two for each backward pass.
    """
    return 4.0 + 2 * _draws(judge)


def estimated(judge: Judge, variants: Sequence[Variant], seed: int = 0) -> np.ndarray:
    """Return the estimated loss of each variant, float64 of shape ``(variants,)``.

    It has the unit of :attr:`qat.analysis.sensitivity.judge.Score.loss`. Where a rounding is so large that the loss is no
    parabola any more, the estimate is too large, in the same order.
    """
    random = np.random.default_rng(seed)

    def directions(outputs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        return [
            [_along(loss, y, random) for loss, y in zip(judge.losses.each, outputs, strict=True)] for _ in range(_draws(judge))
        ]

    total = np.zeros(len(variants))
    with bar("sensitivity, all layers at once", len(judge.inputs)) as shown:
        for inputs in judge.inputs:
            moved = judge.adapter.first_order(judge.model, inputs, variants, directions)
            total += np.square(moved).mean(0).sum(1)
            shown.advance()
    return total / (2 * judge.samples)


def _along(loss: OutputLoss, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return ``A r`` for the outputs of a batch: random signs, shaped by a root of the loss's curvature at these outputs."""
    y = y.astype(np.float64)
    r = random.choice([-1.0, 1.0], size=y.shape)
    rows = y[0].size  # of a sample: a loss is the mean over them
    if loss.name == "mse":
        root = np.sqrt(2.0) * r
    elif loss.name == "bernoulli_kl":
        p = np.clip(y if loss.given else special.expit(y), SHARE, 1 - SHARE)
        spread = np.sqrt(p * (1 - p))
        root = r / spread if loss.given else r * spread
    elif loss.name == "kl":
        rows //= y.shape[loss.axis]
        p = np.maximum(y, TINY) if loss.given else special.softmax(y, loss.axis)
        # diag(p) - p p' = A A' with A = diag(sqrt p) - p sqrt(p)'
        root = np.sqrt(p) * r - p * (np.sqrt(p) * r).sum(loss.axis, keepdims=True)
        root = root / p if loss.given else root
    else:
        rows //= y.shape[loss.axis]
        length = np.maximum(np.linalg.norm(y, axis=loss.axis, keepdims=True), TINY)
        root = (r - y * (y * r).sum(loss.axis, keepdims=True) / length**2) / length
    return np.asarray(root / np.sqrt(rows * loss.divisor))

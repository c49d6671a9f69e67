"""How much the numbers inside a float model matter for its outputs: the diagonal of the Gauss-Newton matrix, without labels.

With ``H`` the second derivative of the loss by the outputs and ``A`` one of its roots, the gradient of ``A e``, multiplied with
the outputs and summed, has the expected square ``diag(J^T H J)`` for random signs ``e``. For softmax outputs under the
Kullback-Leibler divergence from the float model ``H`` is that of Fisher's information, which BRECQ uses (Li et al. 2021, "BRECQ:
Pushing the Limit of Post-Training Quantization by Block Reconstruction", section 3.2, equation 10). For other outputs it is that
of the squared error, in units of the output's variance.

A single draw of each number is noise. The squares are therefore averaged: over the channels at each place of each sample, and
over samples and places in each channel. The importance of a number is the product of the two, divided by the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat.arithmetic.spread import spread
from qat.planning.plan import Plan
from qat.typing import Adapter

#: A probability is at least this.
_TINY = 1e-6

#: The importance of each tensor in each batch; broadcasts over the tensor.
Importance = list[dict[str, np.ndarray]]


class RandomSlopes:
    """Random slopes of a model's outputs, by which the expected square of a gradient is the diagonal of Gauss and Newton.

    Args:
        plan: of the model.
        seed: of the signs.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._by_softmax = {p.op.output for p in plan.ops if p.op.kind == "softmax"}
        self._spread: dict[str, float] = {}

    def __call__(self, name: str, y: np.ndarray) -> np.ndarray:
        """Return the slopes of an output's numbers."""
        signs = self.signs(y.shape)
        if name in self._by_softmax:
            return np.asarray(signs / np.sqrt(np.maximum(y, _TINY)), np.float32)
        self._spread.setdefault(name, spread(y))
        return np.asarray(signs / self._spread[name], np.float32)

    def signs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return random signs, float32."""
        return np.asarray(self._random.choice(np.array([-1.0, 1.0], np.float32), shape))


def importance_of(
    adapter: Adapter, twin: Any, plan: Plan, batches: Sequence[Mapping[str, np.ndarray]], tensors: Sequence[str], seed: int
) -> Importance:
    """Return the importance of tensors, batch by batch; a tensor that no gradient reaches is left out."""
    slopes, layout = RandomSlopes(plan, seed), plan.graph.layout
    places: Importance = []
    channels: dict[str, np.ndarray] = {}
    for batch in batches:
        found = {name: np.square(g) for name, (_, g) in adapter.output_gradients(twin, batch, tensors, slopes).items()}
        places.append({name: g.mean(_channel(g, layout), keepdims=True) for name, g in found.items()})
        for name, g in found.items():
            axes = tuple(i for i in range(g.ndim) if i != _channel(g, layout))
            channels[name] = channels.get(name, 0) + g.mean(axes, keepdims=True) / len(batches)
    means = {name: float(np.mean([batch[name].mean() for batch in places])) for name in channels}
    return [
        {name: g * channels[name] / means[name] ** 2 if means[name] > 0 else np.ones_like(g) for name, g in batch.items()}
        for batch in places
    ]


def _channel(x: np.ndarray, layout: str) -> int:
    """Return the axis of the channels."""
    return 1 if x.ndim > 3 and layout == "NCHW" else x.ndim - 1

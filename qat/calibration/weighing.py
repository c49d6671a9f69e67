"""How much each number of an activation matters for the outputs, shown to the estimator ``importance``.

The weight of a number is the square of the outputs' gradient by it (:mod:`qat.calibration.importance`): to second order the loss
grows by the weighted squares of the rounding errors. What no output depends on, the tail below a hard swish's -3 say, has no
weight, so that no range reaches for it. A histogram adds up many draws of like numbers; no draw needs smoothing here.

Of a softmax what it reads counts, by Fisher's information at a temperature: where probabilities are sure of a class no small
error moves them, and ranges would be cut until a large one does (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network", section 2, has the temperature for the same reason).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.arithmetic.range_estimators import Importance, RangeMode
from qat.system.sample_axes import count_of, cut
from qat.typing import Adapter, PreparedModel

from .importance import RandomSlopes

#: The most numbers of all tensors that are weighed, those of the first samples, and the most whose gradients are held at once.
_WEIGHED, _AT_ONCE = 2**29, 2**26
#: The temperature of a softmax.
_TEMPERATURE = 4.0


class Weigher:
    """Weighs the numbers of some groups, batch by batch.

    Args:
        model: prepared; its grids must not have their estimators yet.
        adapter: of its framework.
        estimators: by group.
    """

    def __init__(self, model: PreparedModel, adapter: Adapter, estimators: dict[str, Importance]) -> None:
        self._adapter, self._plan, self._estimators = adapter, model.plan, estimators
        self._twin = adapter.twin_of(model)
        for grid in adapter.grids(self._twin).values():
            grid.mode = RangeMode.CALIBRATING  # without an estimator: the twin computes in float
        self._tensors = [tensor for tensor, group in model.plan.group_of.items() if group in estimators]
        self._random = RandomSlopes(model.plan, seed=0)
        softmax = {p.op.output: p.op for p in model.plan.ops if p.op.kind == "softmax"}
        ends = {out: softmax[out].inputs[0] if out in softmax else out for out in model.plan.graph.outputs}
        self._ends = tuple(ends.values())
        self._betas = {end: float(softmax[out].attrs["beta"]) for out, end in ends.items() if out in softmax}
        sizes = (model.plan.graph.tensors[tensor].shape[1:] for tensor in self._tensors)
        numbers = max(sum(int(np.prod([n or 1 for n in shape], dtype=np.int64)) for shape in sizes), 1)
        self._left, self._at_once = max(_WEIGHED // numbers, 1), max(_AT_ONCE // numbers, 1)

    def see(self, arrays: Sequence[np.ndarray]) -> None:
        """Weigh a batch, which the estimators have seen: an array for each input."""
        axes = self._plan.graph.sample_axes
        count = min(count_of(arrays, axes), self._left)
        self._left -= count
        for start in range(0, count, self._at_once):
            self._weigh(cut(arrays, axes, start, min(start + self._at_once, count)))

    def _weigh(self, batch: tuple[np.ndarray, ...]) -> None:
        graph = self._plan.graph
        inputs = {name: x.astype(graph.tensors[name].dtype, copy=False) for name, x in zip(graph.inputs, batch, strict=True)}
        found = self._adapter.output_gradients(self._twin, inputs, self._tensors, self._slopes, self._ends)
        for tensor, (values, gradient) in found.items():
            name = self._plan.group_of[tensor]
            self._estimators[name].weigh(self._plan.groups[name].within_bounds(values), np.square(gradient))

    def _slopes(self, name: str, y: np.ndarray) -> np.ndarray:
        """Return the slopes of what counts: of a softmax's input those of Fisher's information, a root of it by random signs."""
        if name not in self._betas:
            return self._random(name, y)
        z = y * np.float32(self._betas[name] / _TEMPERATURE)
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        # diag(p) - p p' = A A' with A = diag(sqrt p) - p sqrt(p)'
        root = np.sqrt(p) * self._random.signs(y.shape)
        return np.asarray(root - p * root.sum(-1, keepdims=True), np.float32)

"""Block reconstruction (BRECQ): the roundings and the activation scales of a block are learned together, block by block.

Source: Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", sections 3.2 and 3.3.
A block (:mod:`qat.planning.blocks`) reads what the blocks before it give, with their own learned roundings, and is held against
the float block's outputs; the squared differences are weighted by how much each number matters for the model's outputs
(:mod:`qat.calibration.importance`). Which way a weight is rounded is learned as in AdaRound, and the activations' scales by their
straight-through gradients (Esser et al. 2020, "Learned Step Size Quantization"). On request each step leaves a share of the
activations unrounded, at random (Wei et al. 2022, "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training
Quantization").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qat.arithmetic.range_estimators import weight_step
from qat.arithmetic.simulation import Simulation
from qat.display.progress import shown, tracked
from qat.errors import ConfigError
from qat.planning.blocks import Block, blocks_of
from qat.system.sample_axes import count_of, cut
from qat.typing import P, Samples

from .adaround_solver import Adam, Rounding
from .clear_borders import clear_borders
from .importance import Importance, importance_of
from .layerwise import Layer, Layerwise

#: The samples of a step, and the most numbers of one tensor that are kept of all samples.
_BATCH, _NUMBERS = 64, 2**25
#: The weight of the regularizer against the error, of which 1 to 30 were tried, and Adam's rate for the roundings.
_PULL, _RATE = 10.0, 3e-2
#: Adam's rate for the factors of the scales; it falls along a cosine.
_SCALE_RATE = 1e-3

#: Values of some tensors for one batch.
Values = dict[str, np.ndarray]


def reconstruct(model: P, samples: Samples, steps: int = 300, seed: int = 0, *, drop: float = 0.0, progress: bool = True) -> P:
    """Learn roundings and activation scales, so that each block's outputs stay nearest to the float ones (BRECQ).

    A start for training, or PTQ in its place. Weights become multiples of their scale and ranges are set, so that the model is
    exported, or trained further, as any other. A block that is no better on the samples keeps its weights and ranges. Source:
    Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction".

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`; changed in place, one block after the other.
        samples: as for :func:`qat.calibrate`; kept in memory. A few hundred samples are enough, and of large ones fewer are kept:
            as many as a tensor has 2^25 numbers of.
        steps: of gradient descent, for each block.
        seed: of the order of the samples, and of the random signs that find what matters.
        drop: the share of activations that a step leaves unrounded, drawn anew each time, so that the weights do not fit the
            samples' own rounding errors (QDrop, Wei et al. 2022); 0 rounds all.
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
        >>> qat.reconstruct(model, [x], steps=10) is model
        True
    """
    if steps < 1:
        raise ConfigError(f"reconstruct needs at least one step, not {steps}")
    if not 0 <= drop < 1:
        raise ConfigError(f"drop is a share from 0 to below 1, not {drop:g}")
    with shown(progress), Layerwise(model, samples, "reconstruct") as walk:
        blocks = blocks_of(model.plan)
        reached = _Reached(walk, blocks, seed)
        for index, block in enumerate(tracked(blocks, "block reconstruction")):
            targets = reached.targets(block)
            solver = _Solver(walk, block, reached, targets)
            if solver.learns:
                solver.learn(steps, np.random.default_rng((seed, index)), drop)
            reached.go_on(block, targets, solver.simulation)
    clear_borders(model)
    return model


class _Reached:
    """What is alive behind the blocks that are done: the values in float, and those that the quantized blocks give."""

    def __init__(self, walk: Layerwise, blocks: list[Block], seed: int) -> None:
        self.walk, plan = walk, walk.model.plan
        self.last = {t: i for i, block in enumerate(blocks) for t in block.inputs}
        self.done = 0
        self.real = _batches(walk)
        self.quantized: list[Values] = [dict(values) for values in self.real]
        outputs = [t for block in blocks for t in block.outputs]
        self.importance = importance_of(walk.adapter, walk.twin, plan, self.real, outputs, seed)

    def targets(self, block: Block) -> list[Values]:
        """Return the float outputs of the next block."""
        return [self.walk.adapter.block_outputs(self.walk.twin, block, values, None) for values in self.real]

    def go_on(self, block: Block, targets: list[Values], simulation: Simulation) -> None:
        """Take the outputs of a block, and drop what no later block reads."""
        for real, quantized, target in zip(self.real, self.quantized, targets, strict=True):
            quantized |= self.walk.adapter.block_outputs(self.walk.twin, block, quantized, simulation)
            real |= target
        self.done += 1
        keep = set(self.walk.model.plan.graph.inputs) | {t for t, i in self.last.items() if i >= self.done}
        self.real, self.quantized = (
            [{t: x for t, x in values.items() if t in keep} for values in batches] for batches in (self.real, self.quantized)
        )


def _batches(walk: Layerwise) -> list[Values]:
    """Return the samples by the inputs' names, in batches of the steps' size, no more than memory is meant for."""
    graph = walk.model.plan.graph
    largest = max(int(np.prod([n or 1 for n in spec.shape[1:]], dtype=np.int64)) for spec in graph.tensors.values())
    left = max(_NUMBERS // max(largest, 1), 1)
    found: list[Values] = []
    for batch in walk.batches:
        arrays = [np.asarray(x) for x in batch]
        size = count_of(arrays, graph.sample_axes)
        for start in range(0, size, _BATCH):
            count = min(_BATCH, left, size - start)
            if count > 0:
                taken = cut(arrays, graph.sample_axes, start, start + count)
                types = (graph.tensors[name].dtype for name in graph.inputs)
                found.append({n: x.astype(t, copy=False) for n, x, t in zip(graph.inputs, taken, types, strict=True)})
                left -= count
    return found


class _Solver:
    """The learning of one block.

    Attributes:
        simulation: how the block is quantized, with the weights and the scales as they are now.
        learns: whether there is anything to learn.
    """

    def __init__(self, walk: Layerwise, block: Block, reached: _Reached, targets: list[Values]) -> None:
        self.walk, self.block, self.targets = walk, block, targets
        self.inputs, self.real = reached.quantized, reached.real
        names = {p.op.name for p in block.ops}
        self.layers = [layer for layer in walk.layers if layer.op.name in names and layer.planned.integer]
        plan = walk.model.plan
        written = {t for p in block.ops for t in p.op.outputs}
        groups = [g for g in plan.groups.values() if written.issuperset(g.tensors) and g.fixed is None and not g.probabilities]
        self.groups = [group.name for group in groups]
        self.grids = self._grids()
        self.simulation = self._simulation({layer: self._held(layer) for layer in self.layers}, {})
        self.learns = bool(self.layers)
        self.importance = _weights(reached.importance, targets)

    def _held(self, layer: Layer) -> np.ndarray:
        scale = layer.scale
        return layer.nearest(layer.weight, scale) * scale

    def _simulation(self, weights: Mapping[Layer, np.ndarray], factors: Mapping[str, float]) -> Simulation:
        """Return the simulation with some weights, and with scales multiplied by factors, by group."""
        group_of = self.walk.model.plan.group_of
        grids = {t: (scale * factors.get(group_of[t], 1.0), lo, hi) for t, (scale, lo, hi) in self.grids.items()}
        held = {layer.op.params["weight"]: layer.as_parameter(value) for layer, value in weights.items()}
        return Simulation(grids, held, group_of)

    def _grids(self) -> dict[str, tuple[float, float, float]]:
        """Return scale and limits of each tensor of the block that is on the grid."""
        group_of, found = self.walk.model.plan.group_of, self.walk.adapter.grids(self.walk.model)
        tensors = {t for p in self.block.ops for t in (*p.op.inputs, *p.op.outputs) if t in group_of}
        encodings = {t: found[group_of[t]].encoding for t in sorted(tensors)}
        return {t: (float(e.scale), float(e.lo), float(e.hi)) for t, e in encodings.items()}

    def error(self, simulation: Simulation) -> float:
        """Return the weighted error of the block over all samples."""
        total = 0.0
        for values, target, weight in zip(self.inputs, self.targets, self.importance, strict=True):
            found = self.walk.adapter.block_outputs(self.walk.twin, self.block, values, simulation)
            total += sum(float((w * np.square(found[t] - target[t])).sum(dtype=np.float64)) for t, w in weight.items())
        return total

    def learn(self, steps: int, random: np.random.Generator, drop: float) -> None:
        """Learn the block, and write what was learned into the model if it is better."""
        before = self.error(self.simulation)
        if not before > 0:
            return
        roundings = {layer: _rounding(layer) for layer in self.layers}
        factors, adam = np.ones(len(self.groups)), Adam((len(self.groups),))
        order: list[int] = []
        for step in range(steps):
            order = order or [int(i) for i in random.permutation(len(self.inputs))]
            index = order.pop()
            soft = {layer: rounding.soft().astype(np.float32) for layer, rounding in roundings.items()}
            simulation = self._simulation(soft, dict(zip(self.groups, factors.tolist(), strict=True)))
            inputs = self.inputs[index]
            if drop:
                simulation = replace(simulation, drop=drop, seed=int(random.integers(2**31)))
                inputs = _mixed(inputs, self.real[index], drop, random)
            importance = {t: w * np.float32(len(self.inputs) / before) for t, w in self.importance[index].items()}
            _, by_weight, by_scale = self.walk.adapter.block_gradients(
                self.walk.twin, self.block, inputs, self.targets[index], importance, simulation, self.groups
            )
            for layer, rounding in roundings.items():
                slope = by_weight.get(layer.op.params["weight"])
                if slope is not None:
                    outputs = layer.shape[0] * layer.shape[1]
                    rounding.move(layer.of_parameter(slope) * rounding.scale, _PULL / outputs, step / steps)
            slopes = np.array([by_scale.get(group, 0.0) for group in self.groups], np.float32)
            factors *= 1 - _SCALE_RATE * 0.5 * (1 + np.cos(np.pi * step / steps)) * adam.direction(slopes)
        learned = {layer: rounding.chosen() * rounding.scale for layer, rounding in roundings.items()}
        found = self._simulation(learned, dict(zip(self.groups, factors.tolist(), strict=True)))
        if self.error(found) < before:
            self._write(found, learned)

    def _write(self, found: Simulation, learned: Mapping[Layer, np.ndarray]) -> None:
        for layer, weight in learned.items():
            layer.weight = weight
        grids = self.walk.adapter.grids(self.walk.model)
        for group in self.groups:
            grid = grids[group]
            scale, lo, hi = found.grids[grid.group.tensors[0]]
            grid.set_range(-hi * scale if grid.group.symmetric else lo * scale, hi * scale)
        self.grids = self._grids()
        self.simulation = self._simulation({layer: self._held(layer) for layer in self.layers}, {})


def _rounding(layer: Layer) -> Rounding:
    """Return the rounding variables of a layer, for the scale with the least squared error of its weights."""
    spec, limit = layer.planned.weight, layer.planned.qmax
    assert spec is not None
    real, before = layer.real[0], layer.weight
    step = weight_step(real.reshape(-1, real.shape[-1]), limit, 0 if spec.granularity == "channel" else None)
    ends = limit * np.broadcast_to(step.reshape(-1, 1), (real.shape[0] * real.shape[1], 1)).reshape(*real.shape[:2], 1)
    # The largest weight ends where the chosen scale does, so that the scale follows from the weights as ever.
    layer.weight = clipped = np.clip(real, -ends, ends)
    scale = layer.scale
    layer.weight = before
    return Rounding(clipped, scale, limit, _RATE)


def _mixed(quantized: Values, real: Values, drop: float, random: np.random.Generator) -> Values:
    """Return the values that a block reads, a share of their numbers as they are in float."""
    return {
        name: np.where(random.random(x.shape, np.float32) < drop, real[name], x) if np.issubdtype(x.dtype, np.floating) else x
        for name, x in quantized.items()
    }


def _weights(importance: Importance, targets: list[Values]) -> list[Values]:
    """Return the weight of each number of the outputs, so that outputs count alike whatever their size."""
    found: list[Values] = [{} for _ in targets]
    for name, first in targets[0].items():
        if np.issubdtype(first.dtype, np.floating):
            power = sum(float(np.square(target[name], dtype=np.float64).sum()) for target in targets) or 1.0
            for one, values, target in zip(found, importance, targets, strict=True):
                one[name] = values.get(name, np.ones((1,) * target[name].ndim, np.float32)) / np.float32(power)
    return found

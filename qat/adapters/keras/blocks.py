"""A block of a prepared model as a differentiable function: in float, or with its quantization simulated.

For :mod:`qat.calibration.reconstruction`. The model is a float twin (:mod:`qat.calibration.float_twin`), whose nodes compute in
float; the simulation rounds what they return. Values and gradients are NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.simulation import Simulation
from qat.planning.blocks import Block
from qat.planning.plan import PlannedOp

from .prepared_model import PreparedModel


def block_outputs(
    twin: PreparedModel, block: Block, values: Mapping[str, np.ndarray], simulation: Simulation | None
) -> dict[str, np.ndarray]:
    """Return the outputs of a block by name, from the values that it reads and the model's inputs; None: in float."""
    found = _Pass(twin, values, simulation).run(block.ops)
    return {name: np.asarray(found[name]) for name in block.outputs}


def block_gradients(
    twin: PreparedModel,
    block: Block,
    values: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    importance: Mapping[str, np.ndarray],
    simulation: Simulation,
    learned: Sequence[str],
) -> tuple[float, dict[str, np.ndarray], dict[str, float]]:
    """Return the weighted squared error of a block's outputs, and its gradients by the weights and by scales.

    Args:
        twin: the float model.
        block: of it.
        values: that the block reads, and the model's inputs.
        targets: the float outputs.
        importance: the weight of each number of an output; broadcasts.
        simulation: with the weights that get a gradient.
        learned: the groups whose scales get one.
    """
    current = _Pass(twin, values, simulation, learned)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([*current.weights.values(), *current.scales.values()])
        found = current.run(block.ops)
        error = tf.zeros(())
        for name, weight in importance.items():
            error += tf.reduce_sum(weight * tf.square(found[name] - targets[name]))
    by_weight, by_scale = tape.gradient(error, [current.weights, current.scales])
    weights = {name: np.asarray(g) for name, g in by_weight.items() if g is not None}
    return float(error), weights, {name: float(g) for name, g in by_scale.items() if g is not None}


def output_gradients(
    twin: PreparedModel,
    inputs: Mapping[str, np.ndarray],
    tensors: Sequence[str],
    slopes: Callable[[str, np.ndarray], np.ndarray],
    ends: Sequence[str] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return tensors of the float model, each with the gradient by it of the outputs times ``slopes(name, values)``, summed.

    A tensor from which no gradient leads to an output is left out. ``ends`` are tensors in place of the outputs.
    """
    current, outputs = _Pass(twin, inputs, None), twin.plan.graph.outputs if ends is None else ends
    with tf.GradientTape() as tape:
        tape.watch([x for x in current.known.values() if x.dtype.is_floating])
        found = current.run(twin.plan.ops)
        total = tf.zeros(())
        for name in outputs:
            if found[name].dtype.is_floating:
                total += tf.reduce_sum(found[name] * slopes(name, np.asarray(found[name])))
    wanted = {name: found[name] for name in tensors}
    gradients = tape.gradient(total, wanted)
    return {name: (np.asarray(wanted[name]), np.asarray(g)) for name, g in gradients.items() if g is not None}


class _Pass:
    """One run of operators between some tensors."""

    def __init__(
        self,
        twin: PreparedModel,
        values: Mapping[str, np.ndarray],
        simulation: Simulation | None,
        learned: Iterable[str] = (),
    ) -> None:
        self.twin = twin
        self.known = {name: tf.convert_to_tensor(x) for name, x in values.items()}
        self.simulation, self.rounded = simulation, 0
        self.grids, self.group_of = ({}, {}) if simulation is None else (simulation.grids, simulation.group_of)
        weights = {} if simulation is None else simulation.weights
        self.weights = {name: tf.convert_to_tensor(w) for name, w in weights.items()}
        scales, factors = {self.group_of[tensor]: grid[0] for tensor, grid in self.grids.items()}, set(learned)
        self.scales = {g: tf.constant(s, tf.float32) for g, s in scales.items() if g in factors}

    def run(self, ops: Iterable[PlannedOp]) -> dict[str, Tensor]:
        """Return every known tensor by name, after these operators."""
        for planned in ops:
            op = planned.op
            read = planned.grid_inputs if planned.integer else ()
            entering = {t for t in read if t in self.twin.plan.quantize}
            inputs = [self._simulated(t, self.known[t]) if t in entering else self.known[t] for t in op.inputs]
            node = None if planned.integer and planned.keeps_framework else self.twin.nodes.get(op.name)
            if node is None:
                outputs = self.twin.kept.call(op, inputs)
            else:
                outputs = {op.output: node(inputs, self.twin.params_of(op, self.weights), False, False)}
            on_grid = planned.integer
            self.known |= {t: self._simulated(t, y) if on_grid else y for t, y in outputs.items()}
        return self.known

    def _simulated(self, tensor: str, y: Tensor) -> Tensor:
        if tensor not in self.grids:
            return y
        scale, lo, hi = self.grids[tensor]
        held = self.scales.get(self.group_of[tensor], scale)
        v = y / held
        rounded = tf.clip_by_value(v + tf.stop_gradient(tf.round(v) - v), lo, hi) * held
        assert self.simulation is not None
        if not self.simulation.drop:
            return rounded
        self.rounded += 1
        return tf.where(self.simulation.dropped(y.shape, self.rounded), y, rounded)

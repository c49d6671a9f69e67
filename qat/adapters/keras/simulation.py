"""Simulation: a calibrated model in float with single roundings of its integer kernels, to see what each of them costs."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.nodes.quantize import fake_quantized
from qat.planning.plan import PlannedOp
from qat.planning.rounding import EXACT, Rounding, Variant
from qat.system.samples import check_fit
from qat.typing import Directions

from .prepared_model import PreparedModel


def simulate(
    model: PreparedModel, inputs: tuple[np.ndarray, ...], variants: Sequence[Variant]
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Yield the index of each variant and the model's outputs with its roundings alone, in the order of their first roundings.

    What stands before the first rounding is computed once for all variants.
    """
    run = _Pass(model, inputs)
    ops = model.plan.ops
    beginning = defaultdict(list)
    for index, variant in enumerate(variants):
        beginning[min(map(run.place, run.rounded(variant)), default=len(ops))].append(index)
    for place in range(len(ops) + 1):
        for index in beginning[place]:
            yield index, _arrays(run.branch(variants[index]).finish(place))
        if place < len(ops):
            run.step(place)


def first_order(
    model: PreparedModel, inputs: tuple[np.ndarray, ...], variants: Sequence[Variant], directions: Directions
) -> np.ndarray:
    """Return how far each variant moves the outputs along directions, to first order in its roundings.

    Args:
        model: a calibrated model.
        inputs: a batch.
        variants: the roundings, each by itself.
        directions: from the float outputs to some directions, each an array for each output.

    Returns:
        float64 of shape ``(directions, variants, samples)``: the scalar product of a direction with the change of a sample's
        outputs. Where samples cannot be told apart, as at a parameter that is rounded, their sum stands at the first.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        run = _Pass(model, inputs, variants, tape)
        outputs = run.finish(0)
    found = []
    for direction in directions(_arrays(outputs)):
        along = [tf.constant(np.asarray(d, np.float32)) for d in direction]
        slopes = tape.gradient(outputs, [y for y, _, _ in run.tapped], along)
        moved = np.zeros((len(variants), len(inputs[0])))
        for (_, axis, changes), slope in zip(run.tapped, slopes, strict=True):
            for index, change in changes.items() if slope is not None else ():
                moved[index] += _by_sample(tf.convert_to_tensor(slope) * change, axis, len(inputs[0]))
        found.append(moved)
    return np.stack(found)


def float_values(model: PreparedModel, inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """Return the float values of a model's inputs and of its operators' outputs, by tensor; the model need not be calibrated."""
    run = _Pass(model, inputs)
    found = {name: np.asarray(value) for name, value in run.real.items()}
    for place, planned in enumerate(model.plan.ops):
        run.step(place)
        found |= {name: np.asarray(run.real[name]) for name in planned.op.outputs if name in run.real}
    return found


def _by_sample(products: Tensor, axis: int | None, samples: int) -> np.ndarray:
    """Return the sums of products by sample, in float64; all at the first where no ``axis`` is that of the samples."""
    values = np.asarray(products, np.float64)
    if axis is None or values.shape[axis] % samples:
        return np.pad(values.sum().reshape(1), (0, samples - 1))
    return np.asarray(np.moveaxis(values, axis, 0).reshape(samples, -1).sum(1))


def _arrays(outputs: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(y) for y in outputs)


class _Pass:
    """A pass in float with the roundings of a variant, operator by operator.

    Attributes:
        real: the tensors that something still reads, by name.
        entered: those that integer kernels read, where they enter the grid.
        variant: the roundings of the pass.
        taps: variants whose changes are noted on the way; the pass itself stays float.
        tapped: of each place that one of them rounds: the float tensor, the axis of its samples, and the changes by variant.
    """

    def __init__(
        self,
        model: PreparedModel,
        inputs: tuple[np.ndarray, ...],
        taps: Sequence[Variant] = (),
        tape: tf.GradientTape | None = None,
    ) -> None:
        check_fit(model.plan.graph.input_shapes, inputs)
        self.model, self.plan = model, model.plan
        self.real = model.signature.read(list(inputs), self.plan.graph)
        self.entered: dict[str, Tensor] = {}
        self.variant: Variant = {}
        self.taps, self.tape = taps, tape
        self.tapped: list[tuple[Tensor, int | None, dict[int, Tensor]]] = []
        self.writers = {t: p.op.name for p in self.plan.ops for t in p.op.outputs}
        self.last_reader = {t: i for i, p in enumerate(self.plan.ops) for t in p.op.inputs}
        self.last_reader |= dict.fromkeys(self.plan.graph.outputs, len(self.plan.ops))

    def rounded(self, variant: Variant) -> list[str]:
        """Return the names of what a variant rounds."""
        return [name for name, rounding in variant.items() if rounding != EXACT]

    def place(self, name: str) -> int:
        """Return the index of the first operator whose output, weight or input is rounded by what a variant calls ``name``."""
        return next(
            i for i, p in enumerate(self.plan.ops)
            if p.op.name == name or any(self.writers.get(t, t) == name for t in self._entering(p))
        )  # fmt: skip

    def branch(self, variant: Variant) -> _Pass:
        """Return a pass that goes on from the values so far with the roundings of a variant."""
        made = copy.copy(self)
        made.real, made.entered, made.variant = dict(self.real), dict(self.entered), variant
        return made

    def step(self, place: int) -> None:
        """Compute one operator, and let go of what nothing reads any more."""
        planned = self.plan.ops[place]
        entering = self._entering(planned)
        values = [self._entered(t) if t in entering else self.real[t] for t in planned.op.inputs]
        self.real |= self._outputs(planned, values)
        for held in (self.real, self.entered):
            for done in [t for t in (*planned.op.inputs, *planned.op.outputs) if self.last_reader.get(t, -1) <= place]:
                held.pop(done, None)

    def finish(self, place: int) -> list[Tensor]:
        """Compute the operators from a place on, and return the outputs."""
        for i in range(place, len(self.plan.ops)):
            self.step(i)
        return list(keras.tree.flatten(self.model.signature.write(self.real)))

    def _entering(self, planned: PlannedOp) -> tuple[str, ...]:
        """Return the float tensors that an integer kernel reads."""
        read = planned.op.inputs if planned.keeps_framework else planned.grid_inputs
        return tuple(t for t in read if t in self.plan.quantize) if planned.integer else ()

    def _entered(self, tensor: str) -> Tensor:
        if tensor not in self.entered:
            x, grid, kernels = self.real[tensor], self.model.grid_of(tensor), self.plan.target.kernels
            self.entered[tensor] = self._rounding(
                self.writers.get(tensor, tensor), tensor, lambda r: fake_quantized(x, grid, kernels) if r.activation else x
            )
        return self.entered[tensor]

    def _outputs(self, planned: PlannedOp, values: list[Tensor]) -> dict[str, Tensor]:
        op = planned.op
        node = None if planned.integer and planned.keeps_framework else self.model.nodes.get(op.name)
        if node is None:
            return self.model.kept.call(op, values)
        params = self.model.params_of(op)
        return {op.output: self._rounding(op.name, op.output, lambda r: node.simulated(r, values, params))}

    def _rounding(self, name: str, tensor: str, computed: Callable[[Rounding], Tensor]) -> Tensor:
        """Return a tensor with the rounding of the variant, and note the changes of those that are tapped."""
        y = computed(self.variant.get(name, EXACT))
        changing = {i: variant[name] for i, variant in enumerate(self.taps) if variant.get(name, EXACT) != EXACT}
        if changing and self.tape is not None:
            y = tf.identity(y)  # an input that several kernels read is no intermediate value of the pass
            self.tape.watch(y)
            with self.tape.stop_recording():
                changes = {i: computed(rounding) - y for i, rounding in changing.items()}
            shape = self.plan.graph.tensors[tensor].shape
            self.tapped.append((y, shape.index(None) if None in shape else None, changes))
        return y

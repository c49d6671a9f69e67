"""The prepared model: a ``keras.Model`` that runs a plan on the integer grid."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.capture.full_precision import FULL, new_layers_in_full
from qat.adapters.keras.capture.weight_function import WeightFunction
from qat.adapters.keras.nodes.activation_grid import Grid
from qat.adapters.keras.nodes.attention import Embedding, as_matrix
from qat.adapters.keras.nodes.base import Node, Params
from qat.adapters.keras.nodes.computed_weight import ComputedWeight
from qat.adapters.keras.nodes.image_weight import as_image_weight
from qat.adapters.keras.nodes.learned_scales import LearnedLinear
from qat.adapters.keras.nodes.linear import Linear
from qat.adapters.keras.nodes.quantize import dequantize, quantize
from qat.adapters.keras.nodes.range_tracking import RangeTracker, derive_encodings
from qat.adapters.keras.nodes.table import make_node
from qat.errors import CalibrationError, ConfigError, ExportError
from qat.graph.graph import Op
from qat.graph.training_acts import OUTPUT, TrainingAct, looks_up, touched
from qat.planning.plan import Plan, PlannedOp

from .kept_layers import KeptLayers
from .many_batches import ManyBatches
from .signature import Signature

#: By parameter: its shape, and whether it is trained.
Shapes = Mapping[str, tuple[tuple[int, ...], bool]]

#: By act: the layers that change a tensor in training, in order.
Acting = Mapping[str, tuple[keras.layers.Layer, ...]]

#: By weight that is computed from parameters: how, and the shape of its factor.
Factors = Mapping[str, tuple[WeightFunction, tuple[int, ...]]]


@keras.saving.register_keras_serializable("qat")
class PreparedModel(keras.Model):
    """A model on the integer grid. An ordinary ``keras.Model``: compile, fit, evaluate, save and load it.

    Variables keep the names and units of the float model; BatchNorm is folded into them. Until the model is calibrated it
    computes in float.

    Attributes:
        plan: the plan that the model was built from.
        parameters: the variables that the plan's operators name, and those that weights are computed from.
        computed: the nodes of weights that are computed, by the names of the weights.
        masks: where a pruned weight is not zero, by parameter; training keeps its zeros.
        nodes: the nodes by operator.
        tracking: 1 while training moves the ranges, else 0.
        many_batches: its outputs for batch after batch, in inference mode.
    """

    qat_prepared = True

    def __init__(
        self,
        plan: Plan,
        signature: Signature,
        kept: KeptLayers,
        shapes: Shapes,
        pruned: Sequence[str] = (),
        acting: Acting | None = None,
        computed: Factors | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=FULL, **kwargs)
        # XLA may reassociate: only on the user's explicit jit_compile=True.
        self.supports_jit = False
        self.plan, self.signature, self.kept = plan, signature, kept
        self.output_names = list(signature.output_names)
        self._shapes = dict(shapes)
        self._traced_for: dict[str, tuple[bool, ...]] = {}
        self.grid_layers = [Grid(group, self._is_tracking, name=f"grid_{name}") for name, group in plan.groups.items()]
        self.float_layers = kept.distinct
        self.acting = dict(acting or {})
        self.training_layers = list({id(x): x for layers in self.acting.values() for x in layers}.values())
        self.acts = {(act.tensor, reader): act for act in plan.acts for reader in act.readers or ("",)} if acting else {}
        self.written = frozenset(t for p in plan.ops if p.integer for t in p.op.outputs)
        self.touched = touched(plan.acts, [p.op for p in plan.ops])
        self._factors = dict(computed or {})
        held = {name: kind for name, kind in shapes.items() if name not in self._factors}
        self.parameters = {name: _variable(name, shape, trainable) for name, (shape, trainable) in held.items()}
        self.masks = {
            name: self.add_weight(name=f"mask_{i}", shape=shapes[name][0], initializer="ones", dtype="bool", trainable=False)
            for i, name in enumerate(pruned)
        }
        self.computed = {
            name: ComputedWeight(
                function,
                self.add_weight(name=f"factor_{i}", shape=shape, initializer="ones", trainable=False),
                self.add_weight(name=f"correction_{i}", shape=shapes[name][0], initializer="zeros", trainable=False),
            )
            for i, (name, (function, shape)) in enumerate(self._factors.items())
        }
        self._grid_of = {tensor: self.grids[group] for tensor, group in plan.group_of.items()}
        # A variable as divisor, see Grid.levels.
        self.weight_limits = {
            str(q): self.add_weight(name=f"qmax_{q}", shape=(), initializer=keras.initializers.Constant(q), trainable=False)
            for q in sorted({p.qmax for p in plan.ops if p.qmax})
        }
        self.tracking = self.add_weight(name="tracking", shape=(), initializer="zeros", trainable=False)
        made = {p.op.name: self._node(p) for p in plan.ops}
        self.nodes: dict[str, Node] = {name: node for name, node in made.items() if node is not None}
        for node in self.nodes.values():
            if isinstance(node, Embedding) and node.planned.tied:
                head = self.nodes[node.planned.tied]
                assert isinstance(head, Linear)
                node.head = head
        self.learned_grids = [grid for grid in self.grid_layers if grid.group.learned]
        self.weight_steps = [self._weight_step(node) for node in self.nodes.values() if isinstance(node, LearnedLinear)]
        self.many_batches = ManyBatches(self, traces=all(planned.integer for planned in plan.ops))
        self.built = True

    def _node(self, planned: PlannedOp) -> Node | None:
        tensors = (*planned.grid_inputs, *planned.op.outputs) if planned.integer else ()
        grids = tuple(self._grid_of[t] for t in tensors)
        return make_node(planned, grids, self.plan.target.kernels, self.weight_limits.get(str(planned.qmax)))

    def _weight_step(self, node: LearnedLinear) -> keras.Variable | None:
        op = node.planned.op
        count = node.count(self._shapes[op.params["weight"]][0])
        if count:
            options = {"shape": (count,), "initializer": "ones", "autocast": False}
            node.weight_step = self.add_weight(name=f"weight_step_{op.name}", **options)
        return node.weight_step

    @property
    def grids(self) -> dict[str, Grid]:
        """The activation scales by group name."""
        return {grid.group.name: grid for grid in self.grid_layers}

    @property
    def on_grid(self) -> bool:
        """Whether the model computes on the grid: calibrated, and not calibrating at the moment."""
        return all(grid.calibrated and not grid.calibrating for grid in self.grid_layers)

    def _is_tracking(self) -> bool:
        return bool(np.asarray(self.tracking) > 0.5)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the plan. ``inputs`` and the result are nested as the user's model takes and returns them."""
        real, _ = self.run(inputs, bool(training))
        return self.signature.write(real)

    def run(self, inputs: Any, training: bool, until: str | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return every tensor in float, and every tensor on the grid, by name.

        With ``until``, the run ends where the operator of that name has its inputs.
        """
        current = _Pass(self, self.signature.read(inputs, self.plan.graph), training)
        if current.on_grid:
            derive_encodings(self.learned_grids)
        tracker = RangeTracker(self.tracking) if training and current.on_grid else None
        read = self.grid_layers if current.on_grid else ()
        try:
            for grid in read:
                grid.start_pass(None if tracker is None else tracker.see)
            current.run(until)
            if tracker is not None and until is None:
                tracker.update_ranges()
        finally:
            for grid in read:
                grid.end_pass()
        return current.real, current.grid

    def changed(self, act: TrainingAct, x: Tensor) -> Tensor:
        """Return a tensor as an act of training changes it."""
        for layer in self.acting[act.name]:
            x = layer(x, training=True)
        return x

    def grid_of(self, tensor: str) -> Grid:
        """Return the grid of a tensor."""
        return self._grid_of[tensor]

    def params_of(self, op: Op, others: Mapping[str, Tensor] | None = None) -> Params:
        """Return an operator's parameters by role: a convolution of signals as one of images, a dense layer's as a matrix.

        ``others`` stand in the place of parameters, by name.
        """
        others = others or {}
        values = {
            role: self._kept(name, tf.convert_to_tensor(others[name]) if name in others else self.tensor(name))
            for role, name in op.params.items()
        }
        values = {role: as_matrix(op.kind, role, value, op.attrs.get("channel_axis", 0)) for role, value in values.items()}
        return {role: as_image_weight(op.kind, value) if role == "weight" else value for role, value in values.items()}

    def tensor(self, name: str) -> Tensor:
        """Return a parameter, or a weight that is computed from parameters."""
        weight = self.computed.get(name)
        return tf.convert_to_tensor(self.parameters[name]) if weight is None else weight(self.parameters)

    def set_tensor(self, name: str, value: Any) -> None:
        """Overwrite what :meth:`tensor` returns, but for what is pruned. A computed weight is corrected: its parameters stay."""
        if name in self.computed:
            self.computed[name].set(value, self.parameters)
        else:
            self.parameters[name].assign(value * tf.cast(self.masks[name], value.dtype) if name in self.masks else value)

    def _kept(self, name: str, value: Tensor) -> Tensor:
        """Return a parameter without what is pruned: no gradient reaches that."""
        return value * tf.cast(self.masks[name], value.dtype) if name in self.masks else value

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Set all variables, the ranges among them."""
        super().set_weights(weights)
        for grid in self.grid_layers:
            grid.forget()

    # Keras keeps the functions it has traced. One traced before calibration computes in float for ever.

    def _is_stale(self, kind: str) -> bool:
        before, now = self._traced_for.get(kind), (self.on_grid, *(grid.trackable for grid in self.grid_layers))
        self._traced_for[kind] = now
        return before is not None and before != now

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        """Trace the training step, again where the model was calibrated since. Raises CalibrationError before that."""
        if not self.on_grid:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        return super().make_train_function(self._is_stale("train") or force)

    def make_test_function(self, force: bool = False) -> Callable[..., Any]:
        """Trace the evaluation step, again where the model was calibrated since."""
        return super().make_test_function(self._is_stale("test") or force)

    def make_predict_function(self, force: bool = False) -> Callable[..., Any]:
        """Trace the prediction step, again where the model was calibrated since."""
        return super().make_predict_function(self._is_stale("predict") or force)

    def export(self, filepath: Any = None, *args: Any, **kwargs: Any) -> None:
        """Refuse: Keras' export would write float operators. :func:`qat.export` writes the integers."""
        raise ExportError(
            f"a prepared model is exported by qat.export(model, 'model{self.plan.target.suffix}'), which writes the integers; "
            "Keras' model.export would write the float operators of training"
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the model is quantized already."""
        raise ConfigError("a prepared model is quantized by its recipe: Keras' model.quantize is for float models")

    def get_config(self) -> dict[str, Any]:
        """Return the values that :meth:`from_config` reads. The plan is one of them: a target's table may change later."""
        return {
            "name": self.name,
            "plan": self.plan.to_dict(),
            "signature": self.signature.to_dict(),
            "kept": self.kept.to_dict(),
            "pruned": list(self.masks),
            "acting": {name: [keras.saving.serialize_keras_object(x) for x in layers] for name, layers in self.acting.items()},
            "computed": {name: [function.to_dict(), list(shape)] for name, (function, shape) in self._factors.items()},
            "shapes": {name: [list(shape), trainable] for name, (shape, trainable) in self._shapes.items()},
        }

    @classmethod
    @new_layers_in_full()
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> PreparedModel:
        """Rebuild a saved model.

        Raises:
            ConfigError: an earlier version of qat saved it.
        """
        if "plan" not in config:
            raise ConfigError("the model was saved by an earlier version of qat: prepare the float model again")
        plan = Plan.from_dict(config["plan"])
        with keras.saving.custom_object_scope(custom_objects or {}):
            kept = KeptLayers.from_dict(config["kept"], plan)
            load = keras.saving.deserialize_keras_object
            acting = {name: tuple(map(load, layers)) for name, layers in config.get("acting", {}).items()}
            computed = {
                name: (WeightFunction.from_dict(function), tuple(shape))
                for name, (function, shape) in config.get("computed", {}).items()
            }
        shapes = {name: (tuple(shape), trainable) for name, (shape, trainable) in config["shapes"].items()}
        signature, pruned = Signature.from_dict(config["signature"]), config.get("pruned", ())
        return cls(plan, signature, kept, shapes, pruned, acting, computed, name=config["name"])


class _Pass:
    """One run of a plan: every tensor has up to two forms, float and on the grid, each made where it is first read."""

    def __init__(self, model: PreparedModel, inputs: dict[str, Tensor], training: bool) -> None:
        self.model, self.training, self.on_grid = model, training, model.on_grid
        self.real: dict[str, Tensor] = inputs
        self.grid: dict[str, Tensor] = {}
        self.reader = ""
        self.acts = model.acts if training else {}
        self.acted: dict[tuple[str, bool], Tensor] = {}

    def run(self, until: str | None) -> None:
        """Compute every operator, or those before the one of that name and what it reads; then the outputs in float."""
        for planned in self.model.plan.ops:
            values = self.values(planned)
            if planned.op.name == until:
                return
            (self.grid if planned.integer else self.real).update(self.compute(planned, values))
        self.reader = OUTPUT
        self.real.update({name: self.as_float(name) for name in self.model.plan.graph.outputs})

    def values(self, planned: PlannedOp) -> list[Tensor]:
        """Return the tensors that an operator reads, in the form in which it reads them."""
        op = planned.op
        self.reader = op.name
        if not planned.integer:
            return [self.as_float(t) for t in op.inputs]
        read = op.inputs if planned.keeps_framework else planned.grid_inputs
        return [self._of_kernel(op, t) if t in read else self.as_float(t) for t in op.inputs]

    def compute(self, planned: PlannedOp, values: list[Tensor]) -> dict[str, Tensor]:
        """Return an operator's outputs by name."""
        node = None if planned.integer and planned.keeps_framework else self.model.nodes.get(planned.op.name)
        if node is None:
            if self.training:
                return self.model.kept.call(planned.op, values)
            return self.model.kept.evaluated(planned.op, values, self.model.plan.target.kernels)
        return {planned.op.output: node(values, self.model.params_of(planned.op), self.training, self.on_grid)}

    def _of_kernel(self, op: Op, name: str) -> Tensor:
        """Return a tensor on the grid as a kernel reads it; one that looks its input up reads what is within the limits."""
        x = self.as_integer(name)
        if not self.acts or name not in self.model.touched or not looks_up(op):
            return x
        grid = self.model.grid_of(name)
        return tf.clip_by_value(x, tf.convert_to_tensor(grid.lo), tf.convert_to_tensor(grid.hi)) if self.on_grid else x

    def _act(self, name: str) -> TrainingAct | None:
        return self.acts.get((name, self.reader)) or self.acts.get((name, ""))

    def _acting(self, act: TrainingAct, on_grid: bool) -> Tensor:
        """Return the tensor of an act as training changes it: where it is written, so that its other form is changed alike."""
        key, name, model = (act.name, on_grid), act.tensor, self.model
        if key not in self.acted:
            if on_grid != (name in model.written):
                x, grid = self._acting(act, not on_grid), model.grid_of(name)
                self.acted[key] = quantize(x, grid, model.plan.target.kernels, True) if on_grid else dequantize(x, grid)
            elif on_grid:
                scale = model.grid_of(name).scale
                v = model.changed(act, self.grid[name] * scale) / scale
                self.acted[key] = v + tf.stop_gradient(tf.round(v) - v)
            else:
                self.acted[key] = model.changed(act, self.real[name])
        return self.acted[key]

    def as_float(self, name: str) -> Tensor:
        if (act := self._act(name)) is not None:
            return self._acting(act, on_grid=False)
        if name not in self.real:
            x = self.grid[name]
            self.real[name] = dequantize(x, self.model.grid_of(name)) if self.on_grid else x
        return self.real[name]

    def as_integer(self, name: str) -> Tensor:
        if (act := self._act(name)) is not None:
            return self._acting(act, on_grid=True)
        if name not in self.grid:
            grid = self.model.grid_of(name)
            if self.on_grid:
                self.grid[name] = quantize(self.real[name], grid, self.model.plan.target.kernels, self.training)
            else:
                grid.estimate(self.real[name], name)
                self.grid[name] = self.real[name]
        return self.grid[name]


def set_range_tracking(model: PreparedModel, tracking: bool) -> None:
    """Let training move the activation ranges, or freeze them, after calibration. NumPy derives the scales of frozen ones."""
    model.tracking.assign(float(tracking))
    for grid in model.grid_layers:
        if not tracking and grid.calibrated:
            grid.set_range(*(float(v) for v in np.asarray(grid.range)))


def _variable(path: str, shape: tuple[int, ...], trainable: bool) -> keras.Variable:
    """Return a variable with the path that it had in the user's model."""
    *scopes, name = path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        return keras.Variable(np.zeros(shape, np.float32), dtype="float32", trainable=trainable, autocast=False, name=name)

"""Insertion: a plan becomes a ``keras.Model`` of integer-grid nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from qat.adapters.keras.capture.conv1d import as_image_weight
from qat.adapters.keras.capture.layer_calls import fill
from qat.adapters.keras.capture.trace import Traced
from qat.adapters.keras.nodes.activation_grid import Grid
from qat.adapters.keras.nodes.attention import NODES as ATTENTION
from qat.adapters.keras.nodes.attention import as_matrix
from qat.adapters.keras.nodes.base import NODES, Node, quantize
from qat.adapters.keras.nodes.conv_transpose import ConvTranspose2d
from qat.adapters.keras.nodes.int16 import WIDE
from qat.adapters.keras.nodes.learned_scales import LearnedLinear, derive
from qat.adapters.keras.nodes.lookup import FUNCTIONS, Constant, Function
from qat.adapters.keras.nodes.range_tracking import Watch
from qat.adapters.keras.nodes.stored_weight import Stored
from qat.arithmetic.range_estimators import RangeMode
from qat.errors import CalibrationError, CaptureError, DataError
from qat.graph.graph import Graph, Op
from qat.graph.kinds import KINDS
from qat.planning.plan import Plan, PlannedOp
from qat.planning.planner import plan as make_plan
from qat.planning.recipe import Recipe
from qat.planning.targets import load_target

Tensor = Any
_NODES: dict[str, type[Node]] = {
    **NODES,
    **ATTENTION,
    "conv_transpose2d": ConvTranspose2d,
    "constant": Constant,
    **dict.fromkeys(FUNCTIONS, Function),
}


@dataclass(frozen=True)
class Face:
    """What the user sees of a model, kept in the prepared one.

    Attributes:
        inputs: tensor names, nested as the model takes its inputs.
        input_layers: the tensor of each input layer, by the layer's name.
        outputs: tensor names, nested as the model returns its outputs.
        output_names: the outputs' own names, by which losses may be given.
        calls: the arguments of the layers that stay float, see :class:`qat.adapters.keras.capture.trace.Traced`.
    """

    inputs: Any
    input_layers: Mapping[str, str]
    outputs: Any
    output_names: tuple[str, ...]
    calls: Mapping[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        calls = {name: keras.saving.serialize_keras_object(list(call)) for name, call in self.calls.items()}
        return {
            "inputs": self.inputs,
            "input_layers": dict(self.input_layers),
            "outputs": self.outputs,
            "output_names": list(self.output_names),
            "calls": calls,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Face:
        """Read what :meth:`to_dict` wrote."""
        calls = {name: tuple(keras.saving.deserialize_keras_object(call)) for name, call in data["calls"].items()}
        return cls(data["inputs"], data["input_layers"], data["outputs"], tuple(data["output_names"]), calls)


@keras.saving.register_keras_serializable("qat")
class PreparedModel(keras.Model):
    """A model on the integer grid. An ordinary ``keras.Model``: compile, fit, evaluate, save and load it.

    Variables keep the names and units of the float model; BatchNorm is folded into them. Until the model is calibrated it
    computes in float.
    """

    qat_prepared = True

    def __init__(self, plan: Plan, layers: Mapping[str, Any], face: Face, shapes: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # XLA may reassociate: only on the user's explicit jit_compile=True.
        self.supports_jit = False
        self.plan = plan
        self.face = face
        self.output_names = list(face.output_names)
        self._shapes = dict(shapes)
        self._traced_for: dict[str, bool] = {}
        self.grid_layers = [Grid(group, name=f"grid_{name}") for name, group in plan.groups.items()]
        self.float_layers = list({id(layers[p.op.name]): layers[p.op.name] for p in plan.ops if p.op.name in layers}.values())
        self.parameters = {name: _variable(name, shape, trainable) for name, (shape, trainable) in shapes.items()}
        by_group = {grid.group.name: grid for grid in self.grid_layers}
        self._grid_of = {tensor: by_group[group] for tensor, group in plan.group_of.items()}
        # A variable as divisor, see Grid.levels.
        self.weight_limits = {
            str(q): self.add_weight(name=f"qmax_{q}", shape=(), initializer=keras.initializers.Constant(q), trainable=False)
            for q in sorted({p.qmax for p in plan.ops if p.qmax})
        }
        #: 1 while training moves the ranges.
        self.observing = self.add_weight(name="observing", shape=(), initializer="zeros", trainable=False)
        self.nodes: dict[str, Node] = {}
        for p in plan.ops:
            if p.stored:
                self.nodes[p.op.name] = Stored(p, self.weight_limits.get(str(p.qmax)))
            elif p.op.kind in _NODES:
                tensors = (*p.grid_inputs, *p.op.outputs) if p.integer else ()
                grids = tuple(self._grid_of[t] for t in tensors)
                nodes = WIDE if p.kernels == "wide" else _NODES
                node = LearnedLinear if _is_learned(p, grids) else nodes[p.op.kind]
                self.nodes[p.op.name] = node(p, grids, plan.target.kernels, self.weight_limits.get(str(p.qmax)))
        self.learned_grids = [grid for grid in self.grid_layers if grid.group.learned]
        self.weight_steps = {name: self._weight_step(name, node) for name, node in self._learned_nodes().items()}
        self._float_by_name = {p.op.name: layers[p.op.name] for p in plan.ops if p.op.name in layers}
        self.built = True

    def _learned_nodes(self) -> dict[str, LearnedLinear]:
        return {name: node for name, node in self.nodes.items() if isinstance(node, LearnedLinear)}

    def _weight_step(self, name: str, node: LearnedLinear) -> Any:
        count = node.count(self._shapes[node.planned.op.params["weight"]][0])
        if count:
            node.step = self.add_weight(name=f"weight_step_{name}", shape=(count,), initializer="ones", autocast=False)
        return node.step

    @property
    def grids(self) -> dict[str, Grid]:
        """The activation scales by group name."""
        return {grid.group.name: grid for grid in self.grid_layers}

    @property
    def on_grid(self) -> bool:
        """Whether the model computes on the grid: calibrated, and not calibrating at the moment."""
        return all(grid.calibrated and grid.mode is not RangeMode.CALIBRATING for grid in self.grid_layers)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the plan."""
        real, _ = self.run(inputs, bool(training))
        return keras.tree.map_structure(lambda name: real[name], self.face.outputs)

    def _tensors(self, inputs: Any) -> dict[str, Tensor]:
        """Return the input tensors by name, of the dtypes and shapes that the user's model takes."""
        if isinstance(inputs, dict):
            names = self.face.inputs if isinstance(self.face.inputs, dict) else self.face.input_layers
            missing = [key for key in names if key not in inputs]
            if missing:
                raise DataError(f"the model's input '{missing[0]}' is missing: it takes {', '.join(names)}")
            given = {name: inputs[key] for key, name in names.items()}
        else:
            values = keras.tree.flatten(inputs)
            if len(values) != len(self.plan.graph.inputs):
                raise DataError(f"the model has {len(self.plan.graph.inputs)} inputs, {len(values)} were given")
            order = self.face.inputs.values() if isinstance(self.face.inputs, dict) else keras.tree.flatten(self.face.inputs)
            given = dict(zip(order, values, strict=True))
        out = {}
        for name in self.plan.graph.inputs:
            spec = self.plan.graph.tensors[name]
            out[name] = tensor = tf.cast(tf.convert_to_tensor(given[name]), spec.dtype)
            if not tensor.shape.is_compatible_with(spec.shape):
                raise DataError(f"input '{name}' has shape {tuple(tensor.shape)}, the model takes {spec.shape} (None: any size)")
        return out

    def run(self, inputs: Any, training: bool, until: str | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return every tensor in float, and every tensor on the grid, by name; those ``until`` an operator can be called."""
        on_grid = self.on_grid
        real: dict[str, Tensor] = self._tensors(inputs)
        grid: dict[str, Tensor] = {}
        if on_grid:
            derive(self.learned_grids)
        watch = Watch(self.grid_layers, self.observing) if training and on_grid else None

        def as_float(name: str) -> Tensor:
            if name not in real:
                scale = self._grid_of[name].scale
                real[name] = grid[name] * scale if on_grid else grid[name]
            return real[name]

        def as_integer(name: str) -> Tensor:
            if name not in grid:
                g = self._grid_of[name]
                if on_grid:
                    grid[name] = quantize(real[name], g, self.plan.target.kernels, training)
                else:
                    g.estimate(real[name])
                    grid[name] = real[name]
            return grid[name]

        for p in self.plan.ops:
            params = self.params_of(p.op)
            if p.integer and p.keeps_framework:
                grid.update(self.call_kept(p.op.name, [as_integer(t) for t in p.op.inputs]))
            elif p.integer:
                values = [as_integer(t) if t in p.grid_inputs else as_float(t) for t in p.op.inputs]
                if p.op.name == until:
                    return real, grid
                grid[p.op.output] = self.nodes[p.op.name](values, params, training, on_grid)
            elif p.op.name in self.nodes:
                real[p.op.output] = self.nodes[p.op.name]([as_float(t) for t in p.op.inputs], params, training, on_grid)
            else:
                values = [as_float(t) for t in p.op.inputs]
                real.update(self.call_kept(p.op.name, values))
        for name in self.plan.graph.outputs:
            as_float(name)
        if watch is not None:
            watch.move()
        return real, grid

    def params_of(self, op: Op) -> dict[str, Tensor]:
        """Return an operator's parameters by role; one of rows as one of images, a dense layer's as a matrix."""
        values = {role: tf.convert_to_tensor(self.parameters[name]) for role, name in op.params.items()}
        values = {role: as_matrix(op.kind, role, value, op.attrs.get("channel_axis")) for role, value in values.items()}
        return {role: as_image_weight(op.kind, value) if role == "weight" else value for role, value in values.items()}

    def call_kept(self, name: str, values: list[Tensor]) -> dict[str, Tensor]:
        """Return the outputs of an operator that keeps its layer, by name, from the tensors it reads."""
        op = next(p.op for p in self.plan.ops if p.op.name == name)
        args, kwargs = fill(self.face.calls[name], values)
        outputs = keras.tree.flatten(self._float_by_name[name](*args, **kwargs))
        return dict(zip(op.outputs, outputs, strict=True))

    def set_weights(self, weights: Any) -> None:
        """Set all variables, the ranges among them."""
        super().set_weights(weights)
        for grid in self.grid_layers:
            grid.forget()

    # Keras keeps the functions it has traced. One traced before calibration computes in float for ever.

    def _stale(self, kind: str) -> bool:
        before, now = self._traced_for.get(kind), self.on_grid
        self._traced_for[kind] = now
        return before is not None and before != now

    def make_train_function(self, force: bool = False) -> Any:
        """Trace the training step, again where the model was calibrated since. Raises CalibrationError before that."""
        if not self.on_grid:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        return super().make_train_function(self._stale("train") or force)

    def make_test_function(self, force: bool = False) -> Any:
        """Trace the evaluation step, again where the model was calibrated since."""
        return super().make_test_function(self._stale("test") or force)

    def make_predict_function(self, force: bool = False) -> Any:
        """Trace the prediction step, again where the model was calibrated since."""
        return super().make_predict_function(self._stale("predict") or force)

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs: the graph, the recipe and the target, from which the plan follows."""
        # A layer that is called twice is saved once, under the operator that calls it first.
        first: dict[int, str] = {}
        for name, layer in self._float_by_name.items():
            first.setdefault(id(layer), name)
        layers = {name: keras.saving.serialize_keras_object(self._float_by_name[name]) for name in first.values()}
        return {
            "name": self.name,
            "graph": self.plan.graph.to_dict(),
            "recipe": self.plan.recipe.model_dump(mode="json"),
            "target": self.plan.target.name,
            "layers": layers,
            "layer_of": {name: first[id(layer)] for name, layer in self._float_by_name.items()},
            "face": self.face.to_dict(),
            "shapes": {name: [list(shape), trainable] for name, (shape, trainable) in self._shapes.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PreparedModel:
        """Rebuild a saved model."""
        plan = make_plan(Graph.from_dict(config["graph"]), Recipe.model_validate(config["recipe"]), load_target(config["target"]))
        made = {name: keras.saving.deserialize_keras_object(layer, custom_objects) for name, layer in config["layers"].items()}
        layers = {name: made[layer] for name, layer in config["layer_of"].items()}
        face = Face.from_dict(config["face"])
        _build_layers(plan, layers, face.calls)
        shapes = {name: (tuple(shape), trainable) for name, (shape, trainable) in config["shapes"].items()}
        return cls(plan, layers, face, shapes, name=config["name"])


def _build_layers(plan: Plan, layers: Mapping[str, Any], calls: Mapping[str, tuple[Any, Any]]) -> None:
    """Create the variables of float layers by calling each on symbolic tensors, as the user's model called it."""
    for p in plan.ops:
        layer = layers.get(p.op.name)
        if isinstance(layer, keras.layers.Layer) and not layer.built:
            specs = [plan.graph.tensors[t] for t in p.op.inputs]
            args, kwargs = fill(calls[p.op.name], [keras.KerasTensor(s.shape, s.dtype) for s in specs])
            layer(*args, **kwargs)


def set_range_tracking(model: PreparedModel, tracking: bool) -> None:
    """Let training move the activation ranges, or freeze them, whose scales NumPy derives; call it after calibration."""
    model.observing.assign(float(tracking))
    for grid in model.grid_layers:
        grid.track(tracking)
        if not tracking and grid.calibrated:
            grid.set_range(*(float(v) for v in np.asarray(grid.range)))


def insert(traced: Traced, plan: Plan, params: Mapping[str, np.ndarray]) -> PreparedModel:
    """Build the prepared model. ``params`` are those of the plan's graph, BatchNorm folded."""
    copies = {id(layer): _copy(layer) for layer in traced.layers.values()}  # a layer that is called twice stays one
    layers = {name: copies[id(layer)] for name, layer in traced.layers.items()}
    _build_layers(plan, layers, traced.arguments)
    for name, layer in layers.items():
        if getattr(layer, "weights", None):
            layer.set_weights(traced.layers[name].get_weights())
    roles = [(name, role) for p in plan.ops for role, name in p.op.params.items()]
    statistics = {name for name, role in roles if role in ("mean", "variance")}
    # A bias that only folding made follows its layer's weight.
    named = [p.op.params for p in plan.ops if "bias" in p.op.params]
    made = {p["bias"]: p["weight"] for p in named if p["bias"] not in traced.params}
    frozen = traced.frozen | statistics | {bias for bias, weight in made.items() if weight in traced.frozen}
    shapes = {name: (params[name].shape, name not in frozen) for name in dict.fromkeys(n for n, _ in roles)}
    face = Face(traced.inputs, traced.input_layers, traced.outputs, traced.output_names, traced.arguments)
    model = PreparedModel(plan, layers, face, shapes, name=plan.graph.name)
    for name, variable in model.parameters.items():
        variable.assign(params[name])
    for node in model._learned_nodes().values():
        node.start(np.asarray(params[node.planned.op.params["weight"]]))
    return model


def _is_learned(planned: PlannedOp, grids: tuple[Grid, ...]) -> bool:
    spec = planned.weight
    return KINDS[planned.op.kind].learnable_weight and spec is not None and (spec.learned or grids[-1].group.learned)


def _copy(layer: Any) -> Any:
    try:
        copied = type(layer).from_config(layer.get_config())
    except (TypeError, ValueError, NotImplementedError) as error:
        if isinstance(layer, keras.layers.Layer) and not layer.weights:
            return layer  # nothing in it is trained: a Lambda, say
        raise CaptureError(
            f"'{layer.name}' ({type(layer).__name__}) stays float but cannot be rebuilt from its configuration: give its class a "
            "get_config method that returns the arguments of __init__"
        ) from error
    if isinstance(copied, keras.layers.Layer):
        copied.trainable = layer.trainable
    return copied


def _variable(path: str, shape: tuple[int, ...], trainable: bool) -> keras.Variable:
    """Return a variable with the path that it had in the user's model."""
    *scopes, name = path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        return keras.Variable(np.zeros(shape, np.float32), dtype="float32", trainable=trainable, autocast=False, name=name)

"""Insertion: a plan becomes a ``keras.Model`` of integer-grid nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from qat.adapters.keras.grid import Grid
from qat.adapters.keras.nodes import NODES, Node, quantize
from qat.adapters.keras.trace import Traced
from qat.graph import Graph
from qat.planner import Plan
from qat.planner import plan as make_plan
from qat.recipe import Recipe
from qat.targets import load_target

Tensor = Any


@keras.saving.register_keras_serializable("qat")
class PreparedModel(keras.Model):
    """A model on the integer grid. An ordinary ``keras.Model``: compile, fit, evaluate, save and load it.

    Variables keep the names and units of the float model; BatchNorm is folded into them. Until the model is calibrated it
    computes in float.
    """

    qat_prepared = True

    def __init__(self, plan: Plan, layers: Mapping[str, Any], structure: Any, shapes: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.output_structure = structure
        self._shapes = dict(shapes)
        self._on_grid: bool | None = None
        self.grid_layers = [Grid(group, name=f"grid_{name}") for name, group in plan.groups.items()]
        self.float_layers = [layers[p.op.name] for p in plan.ops if p.op.name in layers]
        self.parameters = {
            name: self.add_weight(
                name=name.replace("/", "."), shape=shape, dtype="float32", initializer="zeros", trainable=trainable, autocast=False
            )
            for name, (shape, trainable) in shapes.items()
        }
        by_group = {grid.group.name: grid for grid in self.grid_layers}
        self._grid_of = {tensor: by_group[group] for tensor, group in plan.group_of.items()}
        # A variable as divisor, see Grid.levels.
        self.weight_limits = {
            str(q): self.add_weight(name=f"qmax_{q}", shape=(), initializer=keras.initializers.Constant(q), trainable=False)
            for q in sorted({p.qmax for p in plan.ops if p.qmax})
        }
        self.nodes: dict[str, Node] = {}
        for p in plan.ops:
            if p.op.kind in NODES:
                tensors = (*p.op.inputs, *p.op.outputs) if p.integer else ()
                grids = tuple(self._grid_of[t] for t in tensors)
                self.nodes[p.op.name] = NODES[p.op.kind](p, grids, plan.target.kernels, self.weight_limits.get(str(p.qmax)))
        self._float_by_name = {p.op.name: layers[p.op.name] for p in plan.ops if p.op.name in layers}
        self.built = True

    @property
    def grids(self) -> dict[str, Grid]:
        """The activation scales by group name."""
        return {grid.group.name: grid for grid in self.grid_layers}

    @property
    def on_grid(self) -> bool:
        """Whether the model computes on the grid: calibrated, and not calibrating at the moment."""
        return all(grid.calibrated and grid.estimator is None for grid in self.grid_layers)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the plan."""
        real, _ = self.run(inputs, bool(training))
        return keras.tree.map_structure(lambda name: real[name], self.output_structure)

    def run(self, inputs: Any, training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return every tensor in float, and every tensor on the grid, by name."""
        on_grid = self.on_grid
        real: dict[str, Tensor] = dict(zip(self.plan.graph.inputs, keras.tree.flatten(inputs), strict=True))
        grid: dict[str, Tensor] = {}

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
            params = {role: tf.convert_to_tensor(self.parameters[name]) for role, name in p.op.params.items()}
            if p.integer:
                values = [as_integer(t) for t in p.op.inputs]
                grid[p.op.output] = self.nodes[p.op.name](values, params, training, on_grid)
            elif p.op.name in self.nodes:
                real[p.op.output] = self.nodes[p.op.name]([as_float(t) for t in p.op.inputs], params, training, on_grid)
            else:
                values = [as_float(t) for t in p.op.inputs]
                out = self._float_by_name[p.op.name](values[0] if len(values) == 1 else values)
                real.update(zip(p.op.outputs, keras.tree.flatten(out), strict=True))
        for name in self.plan.graph.outputs:
            as_float(name)
        return real, grid

    def reset_functions(self) -> None:
        """Forget compiled functions: the model has gone from float to the grid."""
        self.train_function = self.test_function = self.predict_function = None

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs: the graph, the recipe and the target, from which the plan follows."""
        layers = {name: keras.saving.serialize_keras_object(layer) for name, layer in self._float_by_name.items()}
        return {
            "name": self.name,
            "graph": self.plan.graph.to_dict(),
            "recipe": self.plan.recipe.model_dump(mode="json"),
            "target": self.plan.target.name,
            "layers": layers,
            "structure": self.output_structure,
            "shapes": {name: [list(shape), trainable] for name, (shape, trainable) in self._shapes.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PreparedModel:
        """Rebuild a saved model."""
        plan = make_plan(
            Graph.from_dict(config["graph"]), Recipe.model_validate(config["recipe"]), load_target(config["target"])
        )
        layers = {
            name: keras.saving.deserialize_keras_object(layer, custom_objects) if isinstance(layer, dict) else layer
            for name, layer in config["layers"].items()
        }
        _build_layers(plan, layers)
        shapes = {name: (tuple(shape), trainable) for name, (shape, trainable) in config["shapes"].items()}
        return cls(plan, layers, config["structure"], shapes, name=config["name"])


def _build_layers(plan: Plan, layers: Mapping[str, Any]) -> None:
    for p in plan.ops:
        layer = layers.get(p.op.name)
        if layer is not None and not layer.built:
            shapes = [plan.graph.tensors[t].shape for t in p.op.inputs]
            layer.build(shapes[0] if len(shapes) == 1 else shapes)


def set_observing(model: PreparedModel, observing: bool) -> None:
    """Let training move the activation ranges, or freeze them; frozen scales are derived in NumPy."""
    for grid in model.grid_layers:
        grid.observing.assign(float(observing))
        if not observing and grid.calibrated:
            grid.set_range(*(float(v) for v in np.asarray(grid.range)))


def insert(traced: Traced, plan: Plan, params: Mapping[str, np.ndarray]) -> PreparedModel:
    """Build the prepared model. ``params`` are those of the plan's graph, BatchNorm folded."""
    layers = {name: _copy(layer) for name, layer in traced.layers.items()}
    _build_layers(plan, layers)
    for name, layer in layers.items():
        if traced.layers[name].weights:
            layer.set_weights(traced.layers[name].get_weights())
    roles = [(name, role) for p in plan.ops for role, name in p.op.params.items()]
    statistics = {name for name, role in roles if role in ("mean", "variance")}
    shapes = {
        name: (params[name].shape, name not in traced.frozen and name not in statistics) for name in dict.fromkeys(n for n, _ in roles)
    }
    model = PreparedModel(plan, layers, traced.structure, shapes, name=plan.graph.name)
    for name, variable in model.parameters.items():
        variable.assign(params[name])
    return model


def _copy(layer: Any) -> Any:
    copied = type(layer).from_config(layer.get_config())
    copied.trainable = layer.trainable
    return copied

"""Capture: a Functional or Sequential Keras 3 model, layer by layer, to the neutral graph's kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from qat.errors import CaptureError
from qat.graph.custom_layers import HANDLERS
from qat.graph.graph import Graph, Op, TensorSpec
from qat.graph.kinds import FUNCTIONS

from .attention import CALLS
from .conv1d import follows, on_images, without_idle
from .elementwise import ARITHMETIC, arithmetic
from .layer_calls import placeholder
from .rules import MOVES, RULES, is_move, spec_of


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph, NHWC.
        params: every parameter that the graph's operators name, in Keras' layout.
        layers: the layer of every operator of kind ``float``, by operator name.
        frozen: parameters that are not trained.
        structure: the outputs by tensor name, nested as the model returns them.
        inputs: the inputs by tensor name, nested as the model takes them, and the tensor of each input layer's name.
        output_names: the model's own names of its outputs, by which losses may be given.
        calls: how the layer of each operator of kind ``float`` is called, see :mod:`qat.adapters.keras.capture.layer_calls`.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    layers: Mapping[str, Any]
    frozen: frozenset[str]
    structure: Any
    inputs: tuple[Any, Mapping[str, str]]
    output_names: tuple[str, ...]
    calls: Mapping[str, tuple[Any, Any]]


def trace(model: keras.Model, example_inputs: Any = None) -> Traced:
    """Capture a model. ``example_inputs`` is not needed: a Keras model knows its shapes.

    Layers that only act in training (dropout, noise, augmentation) are left out.

    Raises:
        CaptureError: a subclassed model, a Sequential one without an input shape, or an image size that is not fixed.
    """
    return Builder().build(model)


#: Identities but in training: dropout, noise, augmentation.
_TRAINING_ONLY = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianNoise", "GaussianDropout",
    "ActivityRegularization", "Identity", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast",
    "RandomBrightness",
)  # fmt: skip


class Builder:
    """Collects operators, tensors and parameters while the graph is walked; ``names`` maps a Keras tensor's id to its name."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.specs: dict[str, TensorSpec] = {}
        self.params: dict[str, np.ndarray] = {}
        self.layers: dict[str, Any] = {}
        self.calls: dict[str, tuple[Any, Any]] = {}
        self.variables: dict[int, str] = {}
        self.frozen: set[str] = set()
        self.names: dict[int, str] = {}
        self.used: set[str] = set()
        #: Whether layers of the model pass masks on, which others read without an argument.
        self.has_masks = False
        #: Of signals that are images of one row: the image; and the operators between the two. See :mod:`.rows`.
        self.images: dict[str, str] = {}
        self.borders: set[str] = set()

    def build(self, model: keras.Model) -> Traced:
        """Return what was captured of a model."""
        functional = _functional(model)
        self.has_masks = any(type(x).__name__ == "Masking" or getattr(x, "mask_zero", False) for x in model._flatten_layers())
        inputs = []
        for tensor in functional.inputs:
            name = self.unique(tensor.name)
            self.names[id(tensor)] = name
            self.specs[name] = spec_of(name, tensor)
            inputs.append(name)
        self.walk(functional, "")
        structure = keras.tree.map_structure(lambda t: self.names[id(t)], functional._outputs_struct)
        outputs = tuple(dict.fromkeys(keras.tree.flatten(structure)))
        ops = without_idle(self.ops, outputs, self.borders)
        graph = Graph(self.unique(model.name), "NHWC", tuple(inputs), outputs, ops, self.specs)
        taken = keras.tree.map_structure(lambda t: self.names[id(t)], functional._inputs_struct)
        by_name = {str(t.name): name for t, name in zip(functional.inputs, inputs, strict=True)}
        names = tuple(functional.output_names)
        return Traced(graph, self.params, self.layers, frozenset(self.frozen), structure, (taken, by_name), names, self.calls)

    def walk(self, functional: Any, scope: str) -> None:
        """Add the operators of a functional graph, whose inputs have names already."""
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    self.node(node, scope)

    def node(self, node: Any, scope: str) -> None:
        """Add the operators of one call of a layer."""
        layer = node.operation
        path = f"{scope}{layer.name}"
        inputs = [self.names[id(t)] for t in node.arguments.keras_tensors]
        outputs = node.outputs
        if isinstance(layer, keras.Model):
            inner = _functional(layer)
            for tensor, name in zip(inner.inputs, inputs, strict=True):
                self.names[id(tensor)] = name
            self.walk(inner, f"{path}/")
            for mine, theirs in zip(outputs, inner.outputs, strict=True):
                self.names[id(mine)] = self.names[id(theirs)]
            return
        # A user's subclass may compute anything: only Keras' own classes are known by name.
        kind = type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""
        if kind in _TRAINING_ONLY:
            self.names[id(outputs[0])] = inputs[0]
            return
        if len(outputs) == 1:
            rule = RULES.get(kind)
            if rule is not None and follows(self, kind, inputs):
                rule = on_images(rule)
            emitted: str | None
            handled = HANDLERS[type(layer)](layer) if type(layer) in HANDLERS else None
            if handled is not None:
                emitted = self.emit(handled.kind, inputs, outputs[0], path, handled.params, **handled.attrs)
            elif kind in ARITHMETIC and len(inputs) == 1:
                emitted = arithmetic(self, layer, node, outputs[0], path)
            elif kind in CALLS:
                emitted = CALLS[kind](self, layer, node, outputs[0], path)
            else:
                emitted = rule(self, layer, inputs, outputs[0], path) if rule else None
            if emitted is not None:
                self.names[id(outputs[0])] = emitted
                return
        order = {id(t): placeholder(i) for i, t in enumerate(node.arguments.keras_tensors)}
        arguments = (list(node.arguments.args), dict(node.arguments.kwargs))
        call = keras.tree.map_structure(lambda v: order.get(id(v), v), arguments)
        moves = len(inputs) == len(outputs) == 1 and kind in MOVES and is_move(layer)
        self.keep("move" if moves else "float", layer, inputs, outputs, path, call)

    def emit(
        self, kind: str, inputs: list[str], output: Any, path: str, params: Mapping[str, Any] | None = None, **attrs: Any
    ) -> str:
        """Add an operator whose output has the shape of ``output`` (a KerasTensor or a shape), and return its name.

        ``params`` are a layer's variables, or arrays, which are frozen.
        """
        name = self.unique(f"{path}_{kind}" if kind in ("relu", "relu6") or kind in FUNCTIONS else path)
        self.specs[name] = spec_of(name, output)
        given = {role: value for role, value in (params or {}).items() if value is not None}
        named = {
            role: self.array(v, f"{path}/{role}") if isinstance(v, np.ndarray) else self.param(v, path)
            for role, v in given.items()
        }
        self.ops.append(Op(name, kind, tuple(inputs), (name,), named, attrs, path))
        return name

    def reshape(self, source: str, shape: tuple[int | None, ...], name: str, path: str) -> str:
        """Add a change of shape that keeps the batch first, and return its name."""
        made = self.unique(name)
        self.specs[made] = spec_of(made, shape)
        self.ops.append(Op(made, "reshape", (source,), (made,), {}, {"shape": (-1, *shape[1:])}, path))
        return made

    def keep(self, kind: str, layer: Any, inputs: list[str], outputs: Any, path: str, call: tuple[Any, Any]) -> None:
        """Add an operator that keeps its layer: ``float`` or a ``move``."""
        name = self.unique(path)
        names = []
        for index, tensor in enumerate(outputs):
            out = name if index == 0 else self.unique(f"{path}_{index}")
            self.specs[out] = spec_of(out, tensor)
            self.names[id(tensor)] = out
            names.append(out)
        self.layers[name], self.calls[name] = layer, call
        self.ops.append(Op(name, kind, tuple(inputs), tuple(names), {}, {"target": type(layer).__name__}, path))

    def keep_one(self, kind: str, layer: Any, inputs: list[str], output: Any, path: str, target: str = "") -> str:
        """Add an operator that keeps a layer made here, of one tensor, and return its output's name."""
        name = self.unique(f"{path}_{target}" if target else path)
        self.specs[name] = spec_of(name, output)
        self.layers[name], self.calls[name] = layer, ([placeholder(0)], {})
        self.ops.append(Op(name, kind, tuple(inputs), (name,), {}, {"target": target or type(layer).__name__}, path))
        return name

    def constant(self, value: np.ndarray, path: str) -> str:
        """Add an array that takes part as an activation does, and return its name."""
        name = self.unique(f"{path}_constant")
        self.params[name] = value
        self.frozen.add(name)
        self.specs[name] = spec_of(name, value.shape)
        self.ops.append(Op(name, "constant", (), (name,), {"value": name}, {}, path))
        return name

    def array(self, value: np.ndarray, name: str) -> str:
        """Add an array as a parameter that is not trained, and return its name."""
        candidate, n = name, 1
        while name in self.params:
            name, n = f"{candidate}_{n}", n + 1
        self.params[name] = value.astype(np.float32)
        self.frozen.add(name)
        return name

    def param(self, variable: Any, path: str) -> str:
        """Add a layer's variable and return its name."""
        # Nested models may hold different variables of one path, and one variable may be read by several layers.
        name = self.variables.get(id(variable))
        if name is None:
            name = str(variable.path)
            if name in self.params:
                name = f"{path}/{variable.name}"
            candidate, n = name, 1
            while name in self.params:
                name, n = f"{candidate}_{n}", n + 1
            self.variables[id(variable)] = name
        self.params[name] = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
        if not variable.trainable:
            self.frozen.add(name)
        return name

    def unique(self, name: str) -> str:
        """Return a name that nothing else has."""
        base = re.sub(r"\W", "_", name)
        candidate, n = base, 1
        while candidate in self.used:
            candidate, n = f"{base}_{n}", n + 1
        self.used.add(candidate)
        return candidate


def _functional(model: keras.Model) -> Any:
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise CaptureError(f"Sequential model '{model.name}' has no input shape: add keras.Input(shape) as its first layer")
        return model._functional
    # A subclass that is built as Functional(inputs, outputs) but computes something else in call is no graph either.
    if hasattr(model, "_nodes_by_depth") and type(model).call.__module__.startswith("keras."):
        return model
    layers = ", ".join(layer.name for layer in model.layers[:4])
    raise CaptureError(
        f"'{model.name}' ({type(model).__name__}) is a subclassed model, whose graph Keras does not record (layers: {layers}): "
        "rebuild it as keras.Model(inputs, outputs), or prepare its functional part"
    )

"""Tracing: a Functional or Sequential Keras 3 model, layer by layer, becomes the neutral graph."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from qat.errors import CaptureError
from qat.graph.custom_layers import HANDLERS
from qat.graph.graph import Graph

from .builder import Builder, spec_of
from .layer_calls import Arguments, Call, with_placeholders
from .move_ops import is_move
from .own_training import own_training
from .rules import rule_of

#: Layers that are the identity outside training: dropout, noise, augmentation.
_TRAINING_ONLY = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianNoise", "GaussianDropout",
    "ActivityRegularization", "Identity", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast",
    "RandomBrightness",
)  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph, NHWC.
        params: every parameter that the graph's operators name, in Keras' layout, float32.
        layers: the layer of every operator of kind ``float`` or ``move``, by operator name.
        arguments: how each of ``layers`` is called, see :mod:`qat.adapters.keras.capture.layer_calls`.
        frozen: parameters that are not trained.
        inputs: the inputs by tensor name, nested as the model takes them.
        input_layers: the tensor of each input layer, by the layer's name.
        outputs: the outputs by tensor name, nested as the model returns them.
        output_names: the model's own names of its outputs, by which losses may be given.
        own_training: what :func:`qat.adapters.keras.capture.own_training.own_training` says of the model.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    layers: Mapping[str, keras.Operation]
    arguments: Mapping[str, Arguments]
    frozen: frozenset[str]
    inputs: Any
    input_layers: Mapping[str, str]
    outputs: Any
    output_names: tuple[str, ...]
    own_training: tuple[str, ...] = ()

    @property
    def fixed(self) -> frozenset[str]:
        """The parameters that are not trained."""
        return self.frozen

    def fixing(self, names: Set[str]) -> Traced:
        """Return the same with more parameters that are not trained."""
        return replace(self, frozen=self.frozen | names)


def trace(model: keras.Model, example_inputs: Any = None) -> Traced:
    """Capture a model. ``example_inputs`` is not needed: a Keras model knows its shapes.

    Layers that only act in training (dropout, noise, augmentation) are left out.

    Raises:
        CaptureError: a subclassed model, a Sequential one without an input shape, or an image size that is not fixed.
    """
    functional = _functional(model)
    b = Builder(any(type(x).__name__ == "Masking" or getattr(x, "mask_zero", False) for x in model._flatten_layers()))
    for tensor in functional.inputs:
        name = b.names[id(tensor)] = b.unique(tensor.name)
        b.specs[name] = spec_of(name, tensor)
    inputs = tuple(b.specs)
    _walk(b, functional, "")
    outputs = keras.tree.map_structure(lambda t: b.names[id(t)], functional._outputs_struct)
    distinct = tuple(dict.fromkeys(keras.tree.flatten(outputs)))
    return Traced(
        graph=Graph(b.unique(model.name), "NHWC", inputs, distinct, tuple(b.ops), b.specs),
        params=b.params,
        layers=b.layers,
        arguments=b.arguments,
        frozen=frozenset(b.frozen),
        inputs=keras.tree.map_structure(lambda t: b.names[id(t)], functional._inputs_struct),
        input_layers={str(t.name): name for t, name in zip(functional.inputs, inputs, strict=True)},
        outputs=outputs,
        output_names=tuple(functional.output_names),
        own_training=own_training(model),
    )


def _functional(model: keras.Model) -> Any:
    """Return the graph that Keras records of a model."""
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


def _walk(b: Builder, functional: Any, scope: str) -> None:
    """Add the operators of a functional graph, whose inputs have names already."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input:
                continue
            if isinstance(node.operation, keras.Model):
                _enter(b, node, f"{scope}{node.operation.name}/")
            else:
                _add(b, node, f"{scope}{node.operation.name}")


def _enter(b: Builder, node: Any, scope: str) -> None:
    """Add the operators of a model that is a layer of another."""
    inner = _functional(node.operation)
    for theirs, mine in zip(inner.inputs, node.arguments.keras_tensors, strict=True):
        b.names[id(theirs)] = b.names[id(mine)]
    _walk(b, inner, scope)
    for theirs, mine in zip(inner.outputs, node.outputs, strict=True):
        b.names[id(mine)] = b.names[id(theirs)]


def _add(b: Builder, node: Any, path: str) -> None:
    """Add the operators of one call of a layer: those of its rule, or one that keeps the layer."""
    layer, outputs = node.operation, node.outputs
    call = Call(layer, tuple(b.names[id(t)] for t in node.arguments.keras_tensors), outputs[0], path, node.arguments)
    # A user's subclass may compute anything: only Keras' own classes are known by name.
    kind = type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""
    name = call.inputs[0] if kind in _TRAINING_ONLY else _by_rule(b, kind, call) if len(outputs) == 1 else None
    if name is not None:
        b.names[id(outputs[0])] = name
        return
    kept = "move" if len(outputs) == 1 and is_move(kind, call) else "float"
    names = b.keep(kept, layer, call.inputs, outputs, path, with_placeholders(node.arguments))
    b.names |= {id(tensor): name for tensor, name in zip(outputs, names, strict=True)}


def _by_rule(b: Builder, kind: str, call: Call) -> str | None:
    handler = HANDLERS.get(type(call.layer))
    handled = handler(call.layer) if handler else None
    if handled is not None:
        return b.emit(handled.kind, call.inputs, call.output, call.path, handled.params, **handled.attrs)
    rule = rule_of(b, kind, call)
    return rule(b, call) if rule else None

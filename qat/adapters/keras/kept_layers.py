"""The layers of the operators that keep Keras' implementation, in float or as a data movement on integers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import keras
from tensorflow import Tensor

from qat.adapters.keras.capture.full_precision import compute_in_full
from qat.adapters.keras.capture.layer_calls import Arguments, fill
from qat.adapters.keras.nodes.in_order import IN_ORDER
from qat.errors import CaptureError
from qat.graph.graph import Op
from qat.planning.plan import Plan

from .capture.control_flow import of_functions
from .capture.layer_calls import layers_in
from .capture.unrolling import has_form, unrolled, without_dropout


class KeptLayers:
    """Layers by the name of the operator that calls each, and the arguments of the calls."""

    def __init__(self, layers: Mapping[str, keras.Operation], arguments: Mapping[str, Arguments]) -> None:
        self._layers, self._arguments = layers, arguments

    @classmethod
    def copied(cls, layers: Mapping[str, keras.Operation], arguments: Mapping[str, Arguments], plan: Plan) -> KeptLayers:
        """Return copies of the layers that operators of a plan call, with their variables' values.

        Raises:
            CaptureError: a layer cannot be rebuilt from its configuration.
        """
        used = {p.op.name: layers[p.op.name] for p in plan.ops if p.op.name in layers}
        copies = {id(layer): copy_of(layer) for layer in used.values()}  # a layer that is called twice stays one
        kept = cls({name: copies[id(layer)] for name, layer in used.items()}, {name: arguments[name] for name in used})
        kept.build(plan)
        for layer in used.values():
            if getattr(layer, "weights", None):
                copies[id(layer)].set_weights(layer.get_weights())
        return kept

    @property
    def distinct(self) -> list[keras.Operation]:
        """Every layer once."""
        return list({id(layer): layer for layer in self._layers.values()}.values())

    def build(self, plan: Plan) -> None:
        """Create the layers' variables by calling each on symbolic tensors, as the user's model called it."""
        for p in plan.ops:
            layer = self._layers.get(p.op.name)
            if isinstance(layer, keras.layers.Layer) and not layer.built:
                specs = [plan.graph.tensors[t] for t in p.op.inputs]
                self.call(p.op, [keras.KerasTensor(s.shape, s.dtype) for s in specs])
                compute_in_full(layer)  # what it has made inside

    def call(self, op: Op, values: list[Tensor]) -> dict[str, Tensor]:
        """Return the outputs of an operator by name, from the tensors that it reads."""
        args, kwargs = fill(self._arguments[op.name], values)
        outputs = keras.tree.flatten(self._layers[op.name](*args, **kwargs))
        return dict(zip(op.outputs, outputs, strict=True))

    def evaluated(self, op: Op, values: list[Tensor], kernels: str) -> dict[str, Tensor]:
        """Return the same as a runtime's arithmetic has it, where that adds in another order than TensorFlow."""
        layer = self._layers[op.name]
        in_order = IN_ORDER.get(kernels, {}).get(type(layer).__name__)
        found = None if in_order is None else in_order(layer, values[0])
        return self.call(op, values) if found is None else {op.output: found}

    def written(self, op: Op, values: list[Tensor], suffix: str) -> dict[str, Tensor]:
        """Return the same in the form that an artifact has of it: recurrent layers of a fixed length without their loops.

        What a layer assigns to its variables, a metric's sum say, it reads in the same call, and the variables stay.
        """
        layer, fixed = self._layers[op.name], values[0].shape.rank > 1 and values[0].shape[1] is not None
        loops = contextlib.nullcontext() if not fixed or has_form(layer, len(values) > 1, suffix) else unrolled(layer)
        with loops, without_dropout(layer), keras.StatelessScope():
            return self.call(op, values)

    def to_dict(self) -> dict[str, Any]:
        """Return layers and calls as JSON-ready values; :meth:`from_dict` reads them back."""
        # A layer that is called twice is saved once, under the operator that calls it first.
        first: dict[int, str] = {}
        for name, layer in self._layers.items():
            first.setdefault(id(layer), name)
        save = keras.saving.serialize_keras_object
        return {
            "layers": {name: save(self._layers[name]) for name in first.values()},
            "layer_of": {name: first[id(layer)] for name, layer in self._layers.items()},
            "arguments": {name: save(list(arguments)) for name, arguments in self._arguments.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], plan: Plan) -> KeptLayers:
        """Read what :meth:`to_dict` wrote."""
        load = keras.saving.deserialize_keras_object
        made = {name: load(layer) for name, layer in data["layers"].items()}
        layers = {name: made[layer] for name, layer in data["layer_of"].items()}
        kept = cls(layers, {name: tuple(load(arguments)) for name, arguments in data["arguments"].items()})
        kept.build(plan)
        return kept


def _known_classes(layer: keras.Operation) -> contextlib.AbstractContextManager[Any]:
    """Let Keras find the classes of the layers inside a layer, the cells of an RNN say, where the user registered none."""
    known: contextlib.AbstractContextManager[Any] = keras.saving.custom_object_scope(
        {keras.saving.get_registered_name(type(each)): type(each) for each in layers_in(layer) if not _is_of_keras(each)}
    )
    return known


def _is_of_keras(layer: keras.Operation) -> bool:
    return type(layer).__module__.startswith("keras.")


def copy_of(layer: keras.Operation) -> Any:
    """Return a layer made again from its configuration, in float32."""
    if of_functions(layer):
        raise CaptureError(
            f"'{layer.name}' ({type(layer).__name__}) is made of functions, which cannot be copied: call it in the call of a "
            "layer of your own"
        )
    try:
        with _known_classes(layer):
            copied = type(layer).from_config(layer.get_config())
    except Exception as error:  # whatever the user's get_config raises
        if isinstance(layer, keras.layers.Layer) and not layer.weights:
            return layer  # nothing in it is trained: a Lambda, say
        raise CaptureError(
            f"'{layer.name}' ({type(layer).__name__}) stays float but cannot be rebuilt from its configuration: give its class a "
            "get_config method that returns the arguments of __init__"
        ) from error
    if isinstance(copied, keras.layers.Layer):
        copied.trainable = layer.trainable
        compute_in_full(copied)
    return copied

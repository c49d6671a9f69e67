"""The inputs and outputs of the user's model, which the prepared model takes and returns in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from qat.errors import DataError
from qat.graph.graph import Graph
from qat.program.caller_names import caller_names


@dataclass(frozen=True)
class Signature:
    """The form of a model's inputs and outputs.

    Attributes:
        inputs: the inputs by tensor name, nested as the model takes them.
        input_layers: the tensor of each input layer, by the layer's name.
        outputs: the outputs by tensor name, nested as the model returns them.
        output_names: the model's own names of its outputs, by which losses may be given.
    """

    inputs: Any
    input_layers: Mapping[str, str]
    outputs: Any
    output_names: tuple[str, ...]

    def read(self, inputs: Any, graph: Graph) -> dict[str, Tensor]:
        """Return the input tensors by name, of the dtypes and shapes that the user's model takes.

        Raises:
            DataError: an input is missing, there are too many, or one has another shape.
        """
        given = self._by_name(inputs, graph)
        out = {}
        for name in graph.inputs:
            spec = graph.tensors[name]
            out[name] = tensor = tf.cast(tf.convert_to_tensor(given[name]), spec.dtype)
            if not tensor.shape.is_compatible_with(spec.shape):
                raise DataError(f"input '{name}' has shape {tuple(tensor.shape)}, the model takes {spec.shape} (None: any size)")
        return out

    def _by_name(self, inputs: Any, graph: Graph) -> dict[str, Any]:
        if isinstance(inputs, dict):
            names = self.inputs if isinstance(self.inputs, dict) else self.input_layers
            missing = [key for key in names if key not in inputs]
            if missing:
                raise DataError(f"the model's input '{missing[0]}' is missing: it takes {', '.join(names)}")
            return {name: inputs[key] for key, name in names.items()}
        values = keras.tree.flatten(inputs)
        if len(values) != len(graph.inputs):
            raise DataError(f"the model has {len(graph.inputs)} inputs, {len(values)} were given")
        order = keras.tree.flatten(self.inputs)  # of a dict: by key, as Keras takes a list
        return dict(zip(order, values, strict=True))

    def write(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return the outputs, nested as the user's model returns them."""
        return keras.tree.map_structure(lambda name: tensors[name], self.outputs)

    def caller_names(self, graph: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of a graph's inputs and outputs: the keys of dicts, else the names that Keras has."""
        layers = {tensor: layer for layer, tensor in self.input_layers.items()}
        inputs = _by_tensor(self.inputs, [layers[tensor] for tensor in keras.tree.flatten(self.inputs)])
        outputs = _by_tensor(self.outputs, self.output_names)
        return tuple(inputs[tensor] for tensor in graph.inputs), tuple(outputs[tensor] for tensor in graph.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the signature as JSON-ready values; :meth:`from_dict` reads it back."""
        return {**vars(self), "input_layers": dict(self.input_layers), "output_names": list(self.output_names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Signature:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "output_names": tuple(data["output_names"])})


def _by_tensor(structure: Any, otherwise: Sequence[str]) -> dict[str, str]:
    """Return the callers' name of each tensor; of a tensor that stands in several places, the first."""
    leaves = keras.tree.flatten_with_path(structure)
    names = caller_names([path for path, _ in leaves], otherwise)
    return {tensor: name for (_, tensor), name in reversed([*zip(leaves, names, strict=True)])}

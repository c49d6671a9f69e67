"""A weight as a function of parameters: the operations of ``keras.ops`` that compute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from .layer_calls import Arguments, fill


@dataclass(frozen=True)
class Step:
    """One operation of a computation.

    Attributes:
        operation: of ``keras.ops``.
        arguments: of its call.
        inputs: the parameters, and the results of earlier steps, that it reads, by name.
        outputs: the names of its results.
    """

    operation: keras.Operation
    arguments: Arguments
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class WeightFunction:
    """A weight as a function of parameters.

    Attributes:
        sources: the names of the parameters.
        steps: the operations, in order.
        result: the name of the weight among the results of the steps; without steps, of a parameter.
    """

    sources: tuple[str, ...]
    steps: tuple[Step, ...]
    result: str

    def __call__(self, parameters: Mapping[str, Any]) -> Tensor:
        """Return the weight, from parameters by name."""
        known = {name: tf.convert_to_tensor(parameters[name]) for name in self.sources}
        for step in self.steps:
            args, kwargs = fill(step.arguments, [known[name] for name in step.inputs])
            known |= dict(zip(step.outputs, keras.tree.flatten(step.operation(*args, **kwargs)), strict=True))
        return known[self.result]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; :meth:`from_dict` reads them back."""
        save = keras.saving.serialize_keras_object
        steps = [
            {"operation": save(s.operation), "arguments": save(list(s.arguments)), "inputs": s.inputs, "outputs": s.outputs}
            for s in self.steps
        ]
        return {"sources": self.sources, "steps": steps, "result": self.result}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightFunction:
        """Read what :meth:`to_dict` wrote."""
        load = keras.saving.deserialize_keras_object
        steps = (
            Step(load(s["operation"]), tuple(load(s["arguments"])), tuple(s["inputs"]), tuple(s["outputs"]))
            for s in data["steps"]
        )
        return cls(tuple(data["sources"]), tuple(steps), data["result"])

"""One call of a layer, as a rule sees it, and the arguments with which a layer that keeps its implementation is called again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

#: Positional and keyword arguments; a placeholder stands for each tensor.
Arguments = tuple[list[Any], dict[str, Any]]

_PLACEHOLDER = "@tensor:"


@dataclass(frozen=True)
class Call:
    """One call of a layer in the user's model.

    Attributes:
        layer: the layer, or the operation of ``keras.ops``.
        inputs: the graph's tensors that it reads.
        output: the symbolic tensor that it returns, for its shape and dtype.
        path: the layer's path in the user's model.
        arguments: Keras' record of the arguments; None for a layer that a rule calls itself.
    """

    layer: keras.Operation
    inputs: tuple[str, ...]
    output: keras.KerasTensor
    path: str
    arguments: Any = None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the output."""
        return tuple(self.output.shape)


def layers_in(layer: keras.Operation) -> list[keras.layers.Layer]:
    """Return a layer and those inside it; none of an operation."""
    return layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else []


def placeholder(index: int) -> str:
    """Return the text that stands for an operator's input ``index`` in its arguments."""
    return f"{_PLACEHOLDER}{index}"


#: The arguments of a layer that takes one tensor and nothing else.
ONE_TENSOR: Arguments = ([placeholder(0)], {})


def fill(arguments: Any, values: list[Any]) -> Any:
    """Return arguments with each placeholder replaced by its value."""
    if isinstance(arguments, dict):
        return {key: fill(value, values) for key, value in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(fill(value, values) for value in arguments)
    if isinstance(arguments, str) and arguments.startswith(_PLACEHOLDER):
        return values[int(arguments.removeprefix(_PLACEHOLDER))]
    return arguments


def with_placeholders(arguments: Any) -> Arguments:
    """Return the arguments of a call with a placeholder for each tensor."""
    order = {id(t): placeholder(i) for i, t in enumerate(arguments.keras_tensors)}
    found: Arguments = keras.tree.map_structure(lambda v: order.get(id(v), v), (list(arguments.args), dict(arguments.kwargs)))
    return found

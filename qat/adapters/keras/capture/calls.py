"""The calls that a model consists of: those that Keras recorded, or, of a subclassed model, those that its ``call`` makes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from qat.errors import CaptureError, reason_of
from qat.program.caller_names import caller_names

from .counted_batch import StandIns
from .example_sizes import of_sizes
from .full_precision import in_full
from .layer_calls import layers_in
from .opening import opened
from .own_training import own_training


@dataclass(frozen=True)
class Calls:
    """The calls of layers and operations that make a model.

    Attributes:
        nodes: Keras' records of the calls, in order.
        inputs: the model's symbolic inputs, nested as the model takes them.
        outputs: its symbolic outputs, nested as the model returns them.
        output_names: the model's own names of its outputs.
        variables: the model's variables by the id of the symbolic tensor that stands for each.
        stand_ins: the tensors that stand for inputs, and those.
    """

    nodes: tuple[Any, ...]
    inputs: Any
    outputs: Any
    output_names: tuple[str, ...]
    variables: Mapping[int, keras.Variable] = field(default_factory=dict)
    stand_ins: StandIns = ()


def functional_of(model: object) -> Any:
    """Return the graph that Keras recorded of a model; None for a subclassed model, and for what is no model.

    Raises:
        CaptureError: a Sequential model without an input shape.
    """
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise CaptureError(f"Sequential model '{model.name}' has no input shape: add keras.Input(shape) as its first layer")
        return model._functional
    # A subclass that is built as Functional(inputs, outputs) but computes something else in call is no such graph.
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        return None
    return model if type(model).call.__module__.startswith("keras.") else None


def keeps_state(layer: keras.Operation) -> bool:
    """Return whether a layer, or one inside, keeps a state for each sample from call to call: its batch is fixed."""
    return any(getattr(each, "stateful", False) for each in layers_in(layer))


def nodes_of(functional: Any) -> tuple[Any, ...]:
    """Return the records of the calls of a functional graph, in order, without those of its inputs."""
    depths = functional._nodes_by_depth
    return tuple(node for depth in sorted(depths, reverse=True) for node in depths[depth] if not node.is_input)


def build(model: keras.Model, example_inputs: Any) -> None:
    """Create the variables of a subclassed model that was never called.

    Raises:
        CaptureError: its ``call`` does not take the example inputs, or the shape of the inputs is not known.
    """
    if model.built or isinstance(model, keras.Sequential) or own_training(model):
        return
    inputs = _symbolic_inputs(model, example_inputs)
    try:
        model(inputs)
    except Exception as error:  # whatever the user's call raises
        raise CaptureError(
            f"'{model.name}' ({type(model).__name__}) does not take the example inputs: {reason_of(error)}"
        ) from error


def calls_of(model: keras.Model, example_inputs: Any = None) -> Calls:
    """Return the calls that a model consists of.

    Args:
        model: Functional, Sequential or subclassed.
        example_inputs: arrays as the model takes them; they fix the sizes that a model leaves free, but for the batch.

    Raises:
        CaptureError: the shape of the inputs is not known, a subclassed model has training of its own,
            or its ``call`` takes no symbolic tensors.
    """
    functional = functional_of(model)
    if functional is not None:
        names, nodes = tuple(functional.output_names), nodes_of(functional)
        sized = of_sizes(functional, nodes, example_inputs, isinstance(model, keras.Sequential) and not keeps_state(model))
        found = "" if sized is None else opened(functional, [sized], {}, {id(t) for t in keras.tree.flatten(sized)})
        if not isinstance(found, str):
            return Calls(found.nodes, sized, found.structure, names, found.variables, found.stand_ins)
        return Calls(nodes, functional._inputs_struct, functional._outputs_struct, names)
    methods = ", ".join(own_training(model))
    if methods:
        raise CaptureError(
            f"'{model.name}' is a subclassed model, and the prepared model would lose {methods}: prepare keras.Model(x, model(x))"
            " of an x = keras.Input(shape), and give the result the method"
        )
    inputs = _symbolic_inputs(model, example_inputs)
    found = opened(model, [inputs], {}, {id(t) for t in keras.tree.flatten(inputs)})
    if isinstance(found, str):
        raise CaptureError(
            f"'{model.name}' ({type(model).__name__}) is a subclassed model that {found}: write its call in layers and keras.ops,"
            " or rebuild it as keras.Model(inputs, outputs)"
        )
    names = tuple("output" if len(found.outputs) == 1 else f"output_{i}" for i in range(len(found.outputs)))
    return Calls(found.nodes, inputs, found.structure, names, found.variables, found.stand_ins)


def _symbolic_inputs(model: keras.Model, example_inputs: Any) -> Any:
    """Return symbolic inputs for a subclassed model, of the shapes of an example, else of those that it was built with."""
    if hasattr(model, "_nodes_by_depth"):  # a Functional with a call of its own
        return model._inputs_struct
    if example_inputs is not None:
        values = example_inputs[0] if isinstance(example_inputs, tuple) and len(example_inputs) == 1 else example_inputs
        return _named(
            model, keras.tree.map_structure(lambda x: _input((None, *np.shape(x)[1:]), str(np.asarray(x).dtype)), values)
        )
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shapes is None:
        raise CaptureError(
            f"'{model.name}' ({type(model).__name__}) is a subclassed model whose input shape is not known: give example_inputs, "
            "a batch as it takes it, or call it on one first"
        )
    return _named(model, keras.tree.map_shape_structure(lambda shape: _input((None, *shape[1:]), "float32"), shapes))


def _input(shape: tuple[int | None, ...], dtype: str) -> keras.KerasTensor:
    return keras.KerasTensor(shape, in_full(dtype))


def _named(model: keras.Model, inputs: Any) -> Any:
    """Name symbolic inputs by their keys, else by the first parameter of the model's ``call``."""
    leaves = keras.tree.flatten_with_path(inputs)
    first = next(iter(inspect.signature(model.call).parameters))
    otherwise = [first if len(leaves) == 1 else f"{first}_{i}" for i in range(len(leaves))]
    for (_, tensor), name in zip(leaves, caller_names([path for path, _ in leaves], otherwise), strict=True):
        tensor.name = name
    return inputs

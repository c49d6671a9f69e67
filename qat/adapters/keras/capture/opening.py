"""Layers that are made of others: ``call`` on symbolic tensors records the layers and operations of which they are made."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import is_float_dtype

from .batch_operations import PerSample
from .control_flow import BRANCHES, of_functions, step_by_step
from .counted_batch import NUMBERS, CountsSamples, StandIns, free_batch, freed, is_array, with_samples
from .symbolic_variables import in_inference, symbolic_variables
from .tensor_arrays import listed_arrays
from .tensorflow_calls import recorded_calls

log = logging.getLogger("qat")

#: Keras' own layers that are made of others, or of operations. Any other of its own is opened by its rule, or kept.
_COMPOSITES = (
    "SpectralNormalization", "Attention", "AdditiveAttention", "MultiHeadAttention", "GroupedQueryAttention", "StackedRNNCells",
    "Lambda", "Pipeline",
)  # fmt: skip

#: What a subclass of a layer may define and still compute what the layer does.
_NO_COMPUTATION = {"build", "get_config", "from_config", "compute_output_shape", "compute_output_spec", "get_build_config"}

#: What to do about a size that the model leaves free.
GIVE_SIZES = "pass example_inputs, whose sizes the prepared model has then"

#: The reason of a call whose result is another one each time.
DRAWS = "draws random numbers outside training"

#: TensorFlow's functions of ``tf.random`` that draw; those without a state give the same numbers each time.
_OF_TENSORFLOW = ("normal", "uniform", "truncated_normal", "gamma", "poisson", "categorical", "shuffle")


class _Draws(Exception):
    """A call draws random numbers."""


@dataclass(frozen=True)
class Opened:
    """What one call of a layer consists of.

    Attributes:
        nodes: Keras' records of the calls, in order.
        structure: the symbolic tensors that the layer returns, nested as it returns them.
        variables: the variables of the layer, and of its layers, by the id of the symbolic tensor that stood for each.
        stand_ins: the tensors that stood for the layer's inputs, and those.
    """

    nodes: tuple[Any, ...]
    structure: Any
    variables: Mapping[int, keras.Variable]
    stand_ins: StandIns = ()

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What the layer returns, flattened: symbolic tensors, and arrays that no input reaches."""
        return tuple(keras.tree.flatten(self.structure))


def kind_of(layer: keras.Operation) -> str:
    """Return the class of Keras' own that computes what a layer does; empty where the user's class computes another thing.

    A layer with a low-rank update computes another thing, too: its weight is computed.
    """
    if getattr(layer, "lora_enabled", False):
        return ""
    classes = type(layer).__mro__
    known = next(i for i, cls in enumerate(classes) if cls.__module__.startswith("keras."))
    own = {name for cls in classes[:known] for name in vars(cls) if not name.startswith("__")} - _NO_COMPUTATION
    return "" if any(hasattr(classes[known], name) for name in own) else classes[known].__name__


def may_open(layer: keras.Operation, kind: str) -> bool:
    """Return whether a layer is one of the user's own, or one of Keras' that is made of others."""
    own = not kind or isinstance(layer, keras.Model)
    return isinstance(layer, keras.layers.Layer) and layer.built and (own or kind in _COMPOSITES)


def opened(layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any], known: Set[int]) -> Opened | str:
    """Return the calls of which one call of a layer consists, in inference; a reason where Keras cannot record them.

    A call that computes with the number of samples is recorded with a number, see :mod:`.counted_batch`. The user's layers are
    left as they were.

    Args:
        layer: the layer, built.
        args: the arguments of the call, symbolic tensors among them.
        kwargs: likewise.
        known: the ids of the symbolic tensors whose values are known; other records end there.
    """
    given = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, (keras.KerasTensor, PerSample))]
    tensors = [t for t in given if isinstance(t, keras.KerasTensor)]
    # What an array of the user's code made float64 is float32 here, as behind the cast.
    if layer.autocast and any(is_float_dtype(t.dtype) and t.dtype not in (layer.compute_dtype, "float64") for t in tensors):
        return f"casts its inputs to {layer.compute_dtype}"
    options = in_inference(layer, kwargs)
    found = _call(layer, args, options, known, None) if len(tensors) == len(given) else "has arguments for each sample"
    if isinstance(found, str) or any(map(_holds_batch, found.nodes)):
        counted = _call_of_samples(layer, args, options, known)
        found = counted if isinstance(counted, Opened) or not isinstance(found, str) else counted or found
    if isinstance(found, Opened) and (free := next((node for node in found.nodes if _holds_batch(node)), None)) is not None:
        return f"has a call that computes with a size that the model leaves free (in '{free.operation.name}'): {GIVE_SIZES}"
    return found


def _call(
    layer: keras.layers.Layer, args: Sequence[Any], options: Mapping[str, Any], known: Set[int], number: int | None
) -> Opened | str:
    """Return what a call of a layer consists of, with a number of samples or a free one; a reason where that is not known."""
    inside = layer._flatten_layers()
    before = {id(each): len(each._inbound_nodes) for each in inside}
    (given, named), stand_ins = with_samples((list(args), dict(options)), number)
    known = known | {id(tensor) for tensor, _ in stand_ins}
    try:
        with contextlib.ExitStack() as scopes:
            variables = scopes.enter_context(symbolic_variables(layer))
            for scope in (keras.StatelessScope(), _without_draws(), step_by_step(), recorded_calls(), listed_arrays()):
                scopes.enter_context(scope)
            structure = layer.call(*given, **named)
        outputs = [value for value in keras.tree.flatten(structure) if not is_array(value)]
        nodes = recorded(outputs, known | set(variables)) if outputs else None
        if nodes is None:
            return "returns values that no input reaches"
        branches = any(of_functions(node.operation) for node in nodes)
        return BRANCHES if branches else Opened(nodes, structure, variables, stand_ins)
    except _Draws:
        return DRAWS
    except Exception as error:  # whatever the user's code raises on tensors without values
        log.debug("%s is kept whole", layer.name, exc_info=True)
        return f"has a call that takes no symbolic tensors ({type(error).__name__})"
    finally:
        for each in inside:
            del each._inbound_nodes[before[id(each)] :]


@contextlib.contextmanager
def _without_draws() -> Iterator[None]:
    """Raise _Draws where a call draws random numbers; Keras' inference of shapes, which runs in a graph, may."""
    drawing: list[tuple[Any, str]] = [(keras.random.SeedGenerator, "next"), *((tf.random, name) for name in _OF_TENSORFLOW)]
    originals = [getattr(owner, name) for owner, name in drawing]
    for (owner, name), original in zip(drawing, originals, strict=True):
        setattr(owner, name, _refusing(original))
    try:
        yield
    finally:
        for (owner, name), original in zip(drawing, originals, strict=True):
            setattr(owner, name, original)


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    def drawn(*args: Any, **kwargs: Any) -> Any:
        if tf.executing_eagerly():
            raise _Draws
        return original(*args, **kwargs)

    return drawn


def _call_of_samples(layer: keras.layers.Layer, args: Sequence[Any], options: Mapping[str, Any], known: Set[int]) -> Opened | str:
    """Return what a call consists of that computes with the number of samples; empty where no input has a free one."""
    first, second = (_call(layer, args, options, known, number) for number in NUMBERS)
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    of_samples = [tensor for tensor, given in first.stand_ins if tensor.shape != given.shape]
    if not of_samples:
        return ""
    arrays = [(a, b) for a, b in zip(first.outputs, second.outputs, strict=True) if is_array(a)]
    if not all(np.array_equal(a, b) for a, b in arrays):
        return "returns values for each sample that no input reaches"
    try:
        nodes = freed(first.nodes, second.nodes, of_samples[0])
    except CountsSamples as operation:
        return f"has a call that computes with the number of samples (in '{operation}')"
    for tensor in of_samples:
        free_batch(tensor)
    return replace(first, nodes=nodes)


def recorded(outputs: Sequence[Any], known: Set[int]) -> tuple[Any, ...] | None:
    """Return the records of the calls that lead from known tensors to outputs, in order; None where one is no symbolic tensor."""
    done: dict[int, Any] = {}
    order: list[Any] = []
    todo = [(tensor, False) for tensor in reversed(outputs)]
    while todo:
        tensor, ready = todo.pop()
        if id(tensor) in known:
            continue
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None:
            return None
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in done:
            continue
        if node.is_input:
            return None
        if ready:
            done[id(node)] = node
            if node.arguments.kwargs.get("training") is False:
                del node.arguments.kwargs["training"]  # the user's call did not say so: the layer trains where the model does
            order.append(node)
        else:
            todo.append((tensor, True))
            todo.extend((read, False) for read in reversed(node.arguments.keras_tensors))
    return tuple(order)


def _holds_batch(node: Any) -> bool:
    """Return whether an operation was recorded with a shape of which the batch, not known yet, is a part."""
    operation = node.operation
    if isinstance(operation, keras.layers.Layer) or type(operation).__name__ == "GetItem":  # None of an index is a new axis
        return False
    held = [*vars(operation).values(), *node.arguments.args, *node.arguments.kwargs.values()]
    return any(isinstance(value, (tuple, list)) and any(part is None for part in value) for value in held)

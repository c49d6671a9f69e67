"""Models whose layers compute in another precision, captured as the float32 model of the same weights.

The integer grid stands in the place of the reduced precision, and what stays float computes in float32, as the formats do.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.backend import is_float_dtype
from keras.src.models.functional import Functional

log = logging.getLogger("qat")

#: The precision of every captured model, and of every prepared one.
FULL = "float32"


def other_precisions(layer: keras.layers.Layer) -> tuple[str, ...]:
    """Return the names of the policies, other than float32, by which a layer and the layers inside it compute."""
    casts_nothing = (keras.Sequential, Functional, keras.layers.InputLayer)
    policies = (each.dtype_policy for each in layer._flatten_layers() if not isinstance(each, casts_nothing))
    return tuple(dict.fromkeys(p.name for p in policies if is_float_dtype(p.compute_dtype) and p.compute_dtype != FULL))


def in_full(dtype: str) -> str:
    """Return float32 for a float type, any other as it is."""
    return FULL if is_float_dtype(dtype) else dtype


def compute_in_full(layer: keras.layers.Layer) -> None:
    """Let a layer, and the layers inside it, compute in float32 from now on."""
    for each in _layers(layer):
        each._dtype_policy = keras.DTypePolicy(FULL)


@contextlib.contextmanager
def new_layers_in_full() -> Iterator[None]:
    """Let layers that are made here compute in float32, whatever the program's global policy is."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(FULL)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def captured_in_full(model: keras.Model) -> Iterator[None]:
    """Let a model, its layers and its records of calls be those of the float32 model of the same weights."""
    policies = ", ".join(other_precisions(model))
    if not policies:
        with new_layers_in_full():
            yield
        return
    log.warning("'%s' computes in %s: it is prepared as the float32 model of the same weights", model.name, policies)
    layers = _layers(model)
    before = [(each, each._dtype_policy) for each in layers]
    recorded = [(holder, getattr(holder, name), name) for holder, name in _recorded(layers)]
    compute_in_full(model)
    for holder, _, name in recorded:
        setattr(holder, name, FULL)
    try:
        with new_layers_in_full():
            yield
    finally:
        for each, policy in before:
            each._dtype_policy = policy
        for holder, dtype, name in recorded:
            setattr(holder, name, dtype)


def _layers(layer: keras.layers.Layer) -> list[Any]:
    """Return a layer and those inside it, and the graphs of Sequential models among them, which Keras counts as no layers."""
    layers = layer._flatten_layers()
    return [*layers, *(graph for each in layers if (graph := getattr(each, "_functional", None)) is not None)]


def recorded_in_full(nodes: Iterable[Any]) -> bool:
    """Return whether Keras' records of layers' calls are in the precision in which the layers compute now."""
    made = [(node.operation, t.dtype) for node in nodes if isinstance(node.operation, keras.layers.Layer) for t in node.outputs]
    return all(not is_float_dtype(dtype) or dtype == layer.compute_dtype for layer, dtype in made)


def _recorded(layers: Iterable[Any]) -> list[tuple[Any, str]]:
    """Return what holds a precision in the graphs that Keras recorded of models: casts, and inputs; and by which attribute."""
    models = [each for each in layers if isinstance(each, Functional)]
    casts = [node.operation for model in models for nodes in model._nodes_by_depth.values() for node in nodes]
    casts = [cast for cast in casts if type(cast).__name__ == "Cast" and is_float_dtype(cast.dtype)]
    inputs = [tensor for model in models for tensor in model._inputs if is_float_dtype(tensor.dtype)]
    return [(cast, "dtype") for cast in casts] + [(tensor, "_dtype") for tensor in inputs]

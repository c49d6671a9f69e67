"""A ``tf_keras`` (Keras 2) model as a Keras 3 model: layer by layer, and held against the original."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from qat.adapters.keras.capture.own_training import own_training, refuse_own_training
from qat.errors import ConversionError, reason_of

from .likes import like_of, no_like, take_weights
from .operators import OPERATORS

log = logging.getLogger("qat")

#: What the outputs of both models may differ by, of the largest one: sums in another order, no other function.
_TOLERANCE = 1e-4
#: A size that the model leaves open, in the batch that compares both, and the batch's samples.
_OPEN, _SAMPLES = 64, 2


def as_keras3(model: Any) -> keras.Model:
    """Return a Functional or Sequential ``tf_keras`` model as a Keras 3 model with the same layers, names and weights.

    The outputs of both are compared on a random batch, and the logger ``qat`` says how far they differ.

    Raises:
        CaptureError: the model has training of its own, which its copy would lose.
        ConversionError: a layer has no like in Keras 3, or the outputs differ; the message names the layer.
    """
    refuse_own_training(own_training(model), "tf_keras")
    found = _Conversion().model(model)
    different = _difference(model, found)
    if not different <= _TOLERANCE:
        raise ConversionError(f"model '{model.name}' gives outputs in Keras 3 that differ by {different:.2g} of the largest one")
    log.info("model '%s' became a Keras 3 model: its weights are equal, its outputs differ by %.2g of the largest one at most",
             model.name, different)  # fmt: skip
    return found


class _Conversion:
    """The conversion of one model and of those in it; a layer that is used twice has one like."""

    def __init__(self) -> None:
        self.likes: dict[int, Any] = {}

    def model(self, model: Any) -> keras.Model:
        """Return the like of a model."""
        if isinstance(model, tf_keras.Sequential):
            return self._sequential(model)
        if not getattr(model, "_is_graph_network", False) or not type(model).call.__module__.startswith("tf_keras."):
            raise no_like(model, ": it is neither Functional nor Sequential")
        return self._functional(model)

    def _sequential(self, model: Any) -> keras.Model:
        if not model.built or not model.inputs:
            raise ConversionError(
                f"model '{model.name}' (Sequential) does not know its input: give it an Input layer, or call it once"
            )
        layers = [self._like(layer) for layer in model.layers]
        made = keras.Sequential([_input(model.inputs[0]), *layers], name=model.name)
        for like, layer in zip(layers, model.layers, strict=True):
            self._take(like, layer)
        return made

    def _functional(self, model: Any) -> keras.Model:
        tensors = {id(tensor): _input(tensor) for tensor in model.inputs}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = _replaced((node.call_args, node.call_kwargs), tensors)
                outputs = self._called(node.layer, args, kwargs, tensors.values())
                made = zip(tf.nest.flatten(node.outputs), keras.tree.flatten(outputs), strict=True)
                tensors |= {id(theirs): ours for theirs, ours in made}
        inputs, outputs = (_replaced(nested, tensors) for nested in (model._nested_inputs, model._nested_outputs))
        return keras.Model(inputs, outputs, name=model.name)

    def _called(self, layer: Any, args: Sequence[Any], kwargs: dict[str, Any], before: Iterable[Any]) -> Any:
        """Return the outputs of a layer's like, which gets the layer's weights; ``before``: the tensors made so far."""
        try:
            if type(layer).__name__ in ("TFOpLambda", "SlicingOpLambda"):
                function = layer.get_config()["function"]
                if function not in OPERATORS:
                    raise no_like(layer, f": it is the TensorFlow function {function}")
                outputs = OPERATORS[function](*args, **{name: v for name, v in kwargs.items() if name != "name"})
                _give_name(outputs, layer.name, {id(tensor) for tensor in before})
                return outputs
            like, given = self._like(layer), {name: v for name, v in kwargs.items() if v is not None}
            outputs = like(*args, **given)
        except ConversionError:
            raise
        except Exception as error:  # whatever a layer makes of arguments that Keras 3 has otherwise
            raise no_like(layer, f": {reason_of(error)}") from error
        self._take(like, layer)
        return outputs

    def _like(self, layer: Any) -> Any:
        if id(layer) not in self.likes:
            self.likes[id(layer)] = self.model(layer) if isinstance(layer, tf_keras.Model) else like_of(layer)
        return self.likes[id(layer)]

    def _take(self, like: Any, layer: Any) -> None:
        if not isinstance(layer, tf_keras.Model):  # whose layers have theirs
            take_weights(like, layer)


def _replaced(nested: Any, tensors: Mapping[int, Any]) -> Any:
    return tf.nest.map_structure(lambda tensor: tensors.get(id(tensor), tensor), nested)


def _give_name(outputs: Any, name: str, before: set[int]) -> None:
    """Give the operators behind outputs a name, numbered where there are several: their own may be a layer's of the model."""
    waiting, number, seen = [*keras.tree.flatten(outputs)], 0, set(before)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen or not isinstance(tensor, keras.KerasTensor):
            continue
        seen.add(id(tensor))
        operation = tensor._keras_history.operation
        operation.name = f"{name}_{number}" if number else name
        number += 1
        waiting += keras.tree.flatten(operation.input)


def _input(tensor: Any) -> Any:
    """Return an input of Keras 3 like a symbolic tensor of ``tf_keras``."""
    shape = tuple(tensor.shape)
    return keras.Input(shape[1:], batch_size=shape[0], dtype=tensor.dtype.name, name=tensor.name.replace("/", "_"))


def _difference(model: Any, like: keras.Model) -> float:
    """Return how far the outputs of both differ on a random batch, as a share of the largest value."""
    random, batch = np.random.default_rng(0), []
    for tensor in model.inputs:
        samples, *sizes = tensor.shape
        shape = (samples or _SAMPLES, *(size or _OPEN for size in sizes))
        floats = tensor.dtype.is_floating
        batch.append((random.normal(size=shape) if floats else random.integers(0, 2, shape)).astype(tensor.dtype.as_numpy_dtype))
    given = batch[0] if len(batch) == 1 else batch
    pairs = zip(tf.nest.flatten(model(given, training=False)), keras.tree.flatten(like(given, training=False)), strict=True)
    return max(_share(np.asarray(theirs, np.float64), np.asarray(ours, np.float64)) for theirs, ours in pairs)


def _share(want: np.ndarray, have: np.ndarray) -> float:
    return float(np.abs(want - have).max(initial=0.0) / max(np.abs(want).max(initial=0.0), np.finfo(np.float32).tiny))

"""A Keras model as a function of its inputs in order, and the names of these, whatever the model is built of."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from .baseline import Sample

Outputs = Callable[..., list[tf.Tensor]]


def call_of(model: keras.Model, example: Sample) -> tuple[list[tf.TensorSpec], Outputs]:
    """Return the inputs of a model, with a dynamic batch, and a function of them that returns its outputs in order.

    A model that is not built of symbolic tensors has no names of inputs: they are ``input_0``, ``input_1``, ...
    """
    structure = getattr(model, "input", None)
    names = [f"input_{i}" for i in range(len(example))] if structure is None else [x.name for x in keras.tree.flatten(structure)]
    specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=name) for name, x in zip(names, example, strict=True)]

    def outputs(*tensors: tf.Tensor) -> list[tf.Tensor]:
        nested = list(tensors) if structure is None else keras.tree.pack_sequence_as(structure, list(tensors))
        given = nested[0] if isinstance(nested, list) and len(nested) == 1 else nested
        returned: list[tf.Tensor] = keras.tree.flatten(model(given, training=False))
        return returned

    return specs, outputs

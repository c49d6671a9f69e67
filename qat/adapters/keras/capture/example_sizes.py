"""Sizes that Keras' records leave free, or fix by chance.

Free ones are those of the example inputs, if there are any, and those that follow from others. A Sequential model without an
input layer takes the batch of its first call for its own; that one is free.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from .full_precision import recorded_in_full

log = logging.getLogger("qat")


def of_sizes(functional: Any, nodes: Sequence[Any], example_inputs: Any, free_batch: bool = False) -> Any:
    """Return symbolic inputs with which to record a model again; None where its records have all the sizes that they can.

    Sizes that the inputs leave free are those of an example, but for the batch.

    Args:
        functional: the graph that Keras recorded of a model.
        nodes: its records.
        example_inputs: arrays as the model takes them: one, a list in the order of the inputs, or a dict by name.
        free_batch: whether the batch is free, whatever the records say.
    """
    inputs = keras.tree.flatten(functional._inputs_struct)
    if not any(None in tensor.shape[1:] for tensor in inputs):
        if free_batch and any(tensor.shape[0] is not None for tensor in inputs):
            return keras.tree.map_structure(lambda tensor: _sized(tensor, tensor.shape), functional._inputs_struct)
        return functional._inputs_struct if leaves_sizes(nodes) or not recorded_in_full(nodes) else None
    if example_inputs is None:
        return None
    arrays = _in_order(functional, inputs, example_inputs)
    if arrays is None:
        return None
    made = [_sized(tensor, np.shape(array)) for tensor, array in zip(inputs, arrays, strict=True)]
    sizes = ", ".join(f"'{t.name}' {(*t.shape,)}" for t, before in zip(made, inputs, strict=True) if None in before.shape[1:])
    log.warning("sizes that the model leaves free are those of example_inputs: %s; without example_inputs they stay free", sizes)
    return keras.tree.pack_sequence_as(functional._inputs_struct, made)


def _sized(tensor: keras.KerasTensor, sizes: Sequence[int]) -> keras.KerasTensor:
    shape = (None, *(m if n is None else n for n, m in zip(tensor.shape[1:], sizes[1:], strict=True)))
    return keras.KerasTensor(shape, tensor.dtype, name=tensor.name)


def _in_order(functional: Any, inputs: list[Any], example: Any) -> list[Any] | None:
    """Return the example's arrays in the order of the inputs; None where they do not fit them."""
    if isinstance(example, dict):
        struct = functional._inputs_struct
        keys = sorted(struct) if isinstance(struct, dict) else [t.name for t in inputs]
        values: list[Any] = [example.get(key) for key in keys]
    else:
        values = keras.tree.flatten(example)
    fits = len(values) == len(inputs) and all(np.ndim(v) == len(t.shape) for v, t in zip(values, inputs, strict=True))
    return values if fits else None


def follow(layer: keras.Operation, inputs: Any, outputs: Any) -> None:
    """Fill in the sizes of a layer's recorded output that follow from its input, and that Keras leaves free."""
    if not isinstance(layer, keras.layers.EinsumDense) or not isinstance(outputs, keras.KerasTensor):
        return
    terms, _, result = layer.equation.replace(" ", "").partition("->")
    (x,) = [t for t in keras.tree.flatten(inputs) if isinstance(t, keras.KerasTensor)][:1] or (None,)
    labels = terms.split(",")[0]
    if x is not None and "." not in layer.equation and len(labels) == len(x.shape):
        sizes = dict(zip(labels, x.shape, strict=True))
        outputs._shape = tuple(sizes.get(label) if n is None else n for label, n in zip(result, outputs.shape, strict=True))


def leaves_sizes(nodes: Any) -> bool:
    """Return whether records leave a size free that follows from others, see :func:`follow`."""
    return any(
        isinstance(node.operation, keras.layers.EinsumDense)
        and None in node.outputs[0].shape[1:]
        and None not in node.arguments.keras_tensors[0].shape[1:]
        for node in nodes
    )

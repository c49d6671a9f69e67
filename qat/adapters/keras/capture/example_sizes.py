"""Sizes that Keras' records leave free, or fix by chance.

Free ones are those of the example inputs, if there are any, and those that follow from others. A Sequential model without an
input layer takes the batch of its first call for its own; that one is free.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops.operation_utils import broadcast_shapes

from .counted_batch import NUMBERS, with_samples
from .full_precision import recorded_in_full

log = logging.getLogger("qat")

_MERGES = tuple(getattr(keras.layers, name) for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"))


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


def follow(layer: keras.Operation, arguments: Any, outputs: Any) -> None:
    """Fill in the sizes of a layer's recorded outputs that follow from its inputs, and that Keras leaves free.

    Keras records a call that reshapes by its number of samples, ``reshape(x, (batch, -1, width))``, without one: all sizes that
    follow are free then. With two numbers of samples they are known.
    """
    made = [t for t in keras.tree.flatten(outputs) if isinstance(t, keras.KerasTensor)]
    if not _loses(layer, keras.tree.flatten(arguments), made):
        return
    if isinstance(layer, _MERGES):
        made[0]._shape = _merged([t for t in keras.tree.flatten(arguments) if isinstance(t, keras.KerasTensor)])
        return
    if isinstance(layer, keras.layers.EinsumDense):
        terms, _, result = layer.equation.replace(" ", "").partition("->")
        (x,) = [t for t in keras.tree.flatten(arguments) if isinstance(t, keras.KerasTensor)][:1]
        labels = terms.split(",")[0]
        if "." not in layer.equation and len(labels) == len(x.shape):
            sizes = dict(zip(labels, x.shape, strict=True))
            made[0]._shape = tuple(sizes.get(n) if m is None else m for n, m in zip(result, made[0].shape, strict=True))
        return
    counted = [_outputs_of(layer, arguments, number) for number in NUMBERS]
    for tensor, *specs in zip(made, *counted, strict=False):
        first, second = (spec.shape for spec in specs)
        if len(first) == len(second) == len(tensor.shape):
            known = (a if n is None and a == b else n for n, a, b in zip(tensor.shape[1:], first[1:], second[1:], strict=True))
            tensor._shape = (tensor.shape[0], *known)


def _outputs_of(layer: keras.Operation, arguments: Any, number: int) -> list[keras.KerasTensor]:
    """Return what a layer gives for a number of samples; nothing where its call takes none."""
    (args, kwargs), _ = with_samples(arguments, number)
    try:
        outputs = layer.compute_output_spec(*args, **kwargs)
    except Exception:  # whatever the user's code raises on another number of samples
        return []
    return [t for t in keras.tree.flatten(outputs) if isinstance(t, keras.KerasTensor)]


def leaves_sizes(nodes: Any) -> bool:
    """Return whether records leave a size free that follows from others, see :func:`follow`."""
    return any(_loses(node.operation, node.arguments.keras_tensors, node.outputs) for node in nodes)


def _loses(operation: keras.Operation, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Return whether the record of a layer's call leaves a size free that follows from its inputs, or fixes a free one."""
    tensors = [t for t in inputs if isinstance(t, keras.KerasTensor)]
    if isinstance(operation, _MERGES):
        return _merged(tensors) != tuple(outputs[0].shape)
    known = bool(tensors) and not any(None in t.shape[1:] for t in tensors)
    return known and isinstance(operation, keras.layers.Layer) and any(None in t.shape[1:] for t in outputs)


def _merged(tensors: Sequence[keras.KerasTensor]) -> tuple[int | None, ...]:
    """Return the shape of tensors that are added: Keras has 1 of an axis that is free in one and 1 in another."""
    shape: tuple[int | None, ...] = tuple(functools.reduce(broadcast_shapes, (t.shape for t in tensors)))
    return shape

"""Masks that Keras passes from layer to layer on the tensors: they become arguments of the calls that read them."""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.ops.symbolic_arguments import SymbolicArguments

from .counted_batch import Record

#: Layers of which a mask changes the training alone.
_TRAINING_ALONE = ("BatchNormalization",)


def with_masks(node: Any, kind: str) -> Any:
    """Return a call of a layer with the masks of its inputs among its arguments, where the layer reads them."""
    layer, arguments = node.operation, node.arguments
    if not isinstance(layer, keras.layers.Layer) or kind in _TRAINING_ALONE:
        return node
    if all(get_keras_mask(tensor) is None for tensor in arguments.keras_tensors):
        return node
    signature = inspect.signature(layer.call)
    kwargs = {name: value for name, value in arguments.kwargs.items() if name in signature.parameters}
    given = signature.bind(*arguments.args, **kwargs).arguments
    tensors = {name: value for name, value in given.items() if _is_of_tensors(value)}
    wanted = {"mask" if len(tensors) == 1 else f"{name}_mask": value for name, value in tensors.items()}
    masks = {name: keras.tree.map_structure(get_keras_mask, value) for name, value in wanted.items()}
    masks = {
        name: mask
        for name, mask in masks.items()
        if name in signature.parameters and given.get(name) is None and any(m is not None for m in keras.tree.flatten(mask))
    }
    return Record(layer, SymbolicArguments(*arguments.args, **{**arguments.kwargs, **masks}), node.outputs) if masks else node


def _is_of_tensors(value: Any) -> bool:
    parts = [part for part in keras.tree.flatten(value) if part is not None]
    return bool(parts) and all(isinstance(part, keras.KerasTensor) for part in parts)

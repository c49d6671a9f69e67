"""Layers of images with the channels first, captured as those with the channels last, between two transposes.

Where one such layer reads another one's result, it reads that before it was turned: of a whole network the transposes of its
inputs and of its last images are left.
"""

from __future__ import annotations

from typing import Any

import keras

from .activations import activated, is_of_each
from .builder import Builder, Rule, Shape
from .elementwise import ARITHMETIC, FUNCTION_RULES
from .layer_calls import Call

#: Kinds that compute each number from numbers in its place.
_ELEMENTWISE = {"ReLU", "Activation", "Average", *ARITHMETIC, *FUNCTION_RULES}
#: Kinds of which the channels lie along an ``axis``.
_ALONG_CHANNELS = {"BatchNormalization", "Concatenate"}
#: Kinds with a ``data_format`` that do not go by it.
_IN_ORDER = {"Flatten"}


class _ChannelsLast:
    """A layer as its rule sees it: with the channels last, and without an activation of several numbers."""

    data_format, axis = "channels_last", -1

    def __init__(self, layer: keras.Operation) -> None:
        self._layer = layer
        if not _is_of_each(layer):
            self.activation = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def with_channels_last(b: Builder, kind: str, c: Call, rule: Rule) -> str | None:
    """Add the operators of a call that has a rule, and return the name of its output; None for a layer that stays float."""
    if _has_channels_first(kind, c) or _follows(b, kind, c):
        found = b.attempt(lambda: _turned(b, kind, c, rule))
        if found is not None:
            return found
    return rule(b, c)


def _has_channels_first(kind: str, c: Call) -> bool:
    return getattr(c.layer, "data_format", None) == "channels_first" and kind not in _IN_ORDER


def _follows(b: Builder, kind: str, c: Call) -> bool:
    """Return whether a call reads images that were turned, all of one shape, and may read them as they were before."""
    known = all(name in b.channels_last for name in c.inputs)
    along = kind in _ALONG_CHANNELS and c.layer.axis == 1
    numbers = kind in ARITHMETIC and len(c.inputs) == 1  # one may be an array of the channels
    same = kind in _ELEMENTWISE and _is_of_each(c.layer) and all(b.specs[name].shape == c.shape for name in c.inputs)
    return known and (along or (same and not numbers))


def _is_of_each(layer: keras.Operation) -> bool:
    return is_of_each(getattr(layer, "activation", None))


def _turned(b: Builder, kind: str, c: Call, rule: Rule) -> str | None:
    tensors = c.arguments.keras_tensors
    sources = [_last(b, name, tensor, c.path) for name, tensor in zip(c.inputs, tensors, strict=True)]
    rank = len(b.specs[c.inputs[0]].shape)
    if len(c.shape) != rank:
        return rule(b, Call(_ChannelsLast(c.layer), tuple(sources), c.output, c.path, c.arguments))
    output = keras.KerasTensor(_to_last(c.shape), c.output.dtype)
    layer = c.layer if kind in _ELEMENTWISE else _ChannelsLast(c.layer)
    made = rule(b, Call(layer, tuple(sources), output, c.path, c.arguments))
    if made is None:
        return None
    name = b.emit("transpose", [made], c.output, c.path, axes=(0, rank - 1, *range(1, rank - 1)))
    b.channels_last[name] = made
    b.spare.add(name)
    return name if _is_of_each(c.layer) else activated(b, name, c)


def _last(b: Builder, name: str, tensor: keras.KerasTensor, path: str) -> str:
    """Return the name of a tensor with its channels last."""
    if name in b.channels_last and not b.acts.changes(tensor):
        return b.channels_last[name]
    shape = b.specs[name].shape
    axes = (0, *range(2, len(shape)), 1)
    return b.emit("transpose", [name], _to_last(shape), path, axes=axes)


def _to_last(shape: Shape) -> Shape:
    batch, channels, *sizes = shape
    return (batch, *sizes, channels)

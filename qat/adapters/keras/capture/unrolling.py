"""Recurrent layers without their loops while an artifact is written: the formats have no form of most loops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


def recurrent(layer: keras.Operation) -> list[keras.layers.RNN]:
    """Return the recurrent layers that a layer is, or has inside, such as ``Bidirectional``'s two."""
    inside = layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else []
    return [each for each in inside if isinstance(each, keras.layers.RNN)]


def has_form(layer: keras.Operation, masked: bool, suffix: str) -> bool:
    """Return whether a format has a form of a layer's loops: an ``.onnx`` has an operator of an LSTM without a mask."""
    return suffix == ".onnx" and not masked and all(type(each) is keras.layers.LSTM for each in recurrent(layer))


@contextlib.contextmanager
def unrolled(layer: keras.Operation) -> Iterator[None]:
    """Let a layer compute step after step, without a loop. The number of steps must be fixed."""
    loops = [each for each in recurrent(layer) if not each.unroll]
    for each in loops:
        each.unroll = True
    try:
        yield
    finally:
        for each in loops:
            each.unroll = False

"""Recurrent layers as an artifact is written: without loops, of which formats have no form, and without masks of dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from .layer_calls import layers_in


def recurrent(layer: keras.Operation) -> list[keras.layers.RNN]:
    """Return the recurrent layers that a layer is, or has inside, such as ``Bidirectional``'s two."""
    return [each for each in layers_in(layer) if isinstance(each, keras.layers.RNN)]


def has_form(layer: keras.Operation, masked: bool, suffix: str) -> bool:
    """Return whether a format has a form of a layer's loops: an ``.onnx`` has an operator of an LSTM without a mask."""
    return suffix == ".onnx" and not masked and all(map(_is_operator, recurrent(layer)))


def _is_operator(layer: keras.layers.RNN) -> bool:
    """Return whether tf2onnx makes the operator of a layer; ONNX Runtime ends the process at the loop that it makes of others."""
    known = type(layer) is keras.layers.LSTM and layer.recurrent_activation is keras.activations.sigmoid
    return known and layer.activation in (keras.activations.tanh, keras.activations.relu) and not layer.recurrent_dropout


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


@contextlib.contextmanager
def without_dropout(layer: keras.Operation) -> Iterator[None]:
    """Let a layer's recurrent cells make no masks of dropout: Keras draws them in inference too, where nothing reads them."""
    rates = [(each, each.dropout, each.recurrent_dropout) for each in layers_in(layer) if isinstance(each, DropoutRNNCell)]
    for each, *_ in rates:
        each.dropout = each.recurrent_dropout = 0
    try:
        yield
    finally:
        for each, dropout, recurrent_dropout in rates:
            each.dropout, each.recurrent_dropout = dropout, recurrent_dropout

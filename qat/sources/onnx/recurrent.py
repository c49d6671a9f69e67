"""Recurrent layers, in PyTorch's order of gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .operator import Known, Operand, Operator, Result, Row, Rows


@dataclass(frozen=True)
class _Layer:
    """A kind of recurrent layer: PyTorch's function, the place of each of PyTorch's gates in the file, and its activations."""

    function: Callable[..., Any]
    gates: tuple[int, ...]
    activations: tuple[str, ...]


#: Sources: https://onnx.ai/onnx/operators/onnx__LSTM.html, gates i o f c; PyTorch's are i f g o.
_LSTM = _Layer(torch.lstm, (0, 2, 3, 1), ("sigmoid", "tanh", "tanh"))
#: https://onnx.ai/onnx/operators/onnx__GRU.html, gates z r h; PyTorch's are r z n.
_GRU = _Layer(torch.gru, (1, 0, 2), ("sigmoid", "tanh"))
_RNN = _Layer(torch.rnn_tanh, (0,), ("tanh",))


def _recurrent(layer: _Layer) -> Row:
    def row(n: Operator) -> Result:
        _check(n, layer)
        x, hidden = n[0], n.attr("hidden_size")
        batch_first = bool(n.attr("layout", 0))
        x = n.call(torch.transpose, x, 0, 1) if batch_first else x
        reverse = n.attr("direction", "forward") == "reverse"
        x = n.call(torch.flip, x, [0]) if reverse else x
        directions = 2 if n.attr("direction", "forward") == "bidirectional" else 1
        batch = n.shape(x)[1]
        states = [_state(n, index, [directions, batch, hidden]) for index in ((5, 6) if layer is _LSTM else (5,))]
        weights = _weights(n, layer, directions)
        start = states if layer is _LSTM else states[0]
        with_bias = n.get(3) is not None
        y, *last = n.calls(layer.function, x, start, weights, with_bias, 1, 0.0, False, directions == 2, False)
        y = n.call(torch.flip, y, [0]) if reverse else y
        steps = n.shape(y)[0]
        y = n.call(torch.permute, n.call(torch.reshape, y, [steps, batch, directions, hidden]), [0, 2, 1, 3])
        if batch_first:
            return [n.call(torch.permute, y, [2, 0, 1, 3]), *(n.call(torch.transpose, state, 0, 1) for state in last)]
        return [y, *last]

    return row


def _check(n: Operator, layer: _Layer) -> None:
    if n.get(4) is not None:
        lengths, steps = n.array(4), n.shape(n[0])[1 if n.attr("layout", 0) else 0]
        if not all(length == steps for length in lengths):
            n.refuse("reads sequences of several lengths, which PyTorch packs")
    if n.get(7) is not None or n.attr("clip") or n.attr("input_forget", 0):
        n.refuse("has peepholes, a clip or coupled gates, which PyTorch lacks")
    given = [name.lower() for name in n.attr("activations", ())]
    if any(name != layer.activations[i % len(layer.activations)] for i, name in enumerate(given)):
        n.refuse(f"has the activations {', '.join(given)}, and PyTorch's are {', '.join(layer.activations)}")
    if layer is _GRU and not n.attr("linear_before_reset", 0):
        n.refuse(
            "resets before its product (linear_before_reset=0), and PyTorch after it", "export the layer with reset_after=True"
        )


def _state(n: Operator, index: int, shape: list[Any]) -> Operand:
    given = n.get(index)
    if given is not None:
        return n.call(torch.transpose, given, 0, 1) if n.attr("layout", 0) else given
    return n.call(torch.zeros, shape)


def _weights(n: Operator, layer: _Layer, directions: int) -> list[Operand]:
    """Return PyTorch's flat weights: for each direction those of the input, of the state, and the two biases."""
    result: list[Operand] = []
    for direction in range(directions):
        for index, name in ((1, "weight_ih"), (2, "weight_hh")):
            result.append(_ordered(n, n[index], layer.gates, direction, name))
        if n.get(3) is not None:
            bias = n[3]
            if not isinstance(bias, Known):
                n.refuse("computes its biases", "export the model with constants folded")
            halves = np.split(bias.array[direction], 2)
            result += [
                Known(f"{bias.name}.{name}_{direction}", _gates(half, layer.gates), bias.trained)
                for half, name in zip(halves, ("bias_ih", "bias_hh"), strict=True)
            ]
    return result


def _ordered(n: Operator, weight: Operand, gates: Sequence[int], direction: int, name: str) -> Operand:
    if not isinstance(weight, Known):
        n.refuse("computes its weights", "export the model with constants folded")
    return Known(f"{weight.name}.{name}_{direction}", _gates(weight.array[direction], gates), weight.trained)


def _gates(array: np.ndarray, gates: Sequence[int]) -> np.ndarray:
    parts = np.split(array, len(gates))
    return np.concatenate([parts[gate] for gate in gates])


ROWS: Rows = {"LSTM": _recurrent(_LSTM), "GRU": _recurrent(_GRU), "RNN": _recurrent(_RNN)}

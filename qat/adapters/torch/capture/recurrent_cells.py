"""Cells of recurrent networks, one step each: products of matrices, functions and sums, as a user would write them by hand.

The formulas are those of PyTorch's ``LSTMCell``, ``GRUCell`` and ``RNNCell``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .rewriter import Rewrite, Rewriter, given

aten = torch.ops.aten


def _products(w: Rewriter, n: Any, hidden: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Write the products of the weights with the input and with the hidden state."""
    weight_x, weight_h, bias_x, bias_h = given(n, None, None, None, None, None)[1:]
    return w.call(n, aten.linear.default, n.args[0], weight_x, bias_x), w.call(n, aten.linear.default, hidden, weight_h, bias_h)


def _gates(w: Rewriter, n: Any, x: fx.Node, count: int) -> list[fx.Node]:
    size = x.meta["val"].shape[-1] // count
    return [w.call(n, aten.slice.Tensor, x, x.meta["val"].ndim - 1, i * size, (i + 1) * size) for i in range(count)]


def _lstm(w: Rewriter, n: Any) -> None:
    """Write the hidden state and the cell's state in the places of the two parts of the result."""
    hidden, cell = n.args[1]
    opened, kept, new, shown = _gates(w, n, w.call(n, aten.add.Tensor, *_products(w, n, hidden)), 4)
    opened, kept, shown = (w.call(n, aten.sigmoid.default, gate) for gate in (opened, kept, shown))
    added = w.call(n, aten.mul.Tensor, opened, w.call(n, aten.tanh.default, new))
    cell = w.call(n, aten.add.Tensor, w.call(n, aten.mul.Tensor, kept, cell), added)
    hidden = w.call(n, aten.mul.Tensor, shown, w.call(n, aten.tanh.default, cell))
    for part in n.users:
        part.replace_all_uses_with((hidden, cell)[part.args[1]])


def _gru(w: Rewriter, n: Any) -> fx.Node:
    hidden = n.args[1]
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (_gates(w, n, p, 3) for p in _products(w, n, hidden))
    reset, update = (
        w.call(n, aten.sigmoid.default, w.call(n, aten.add.Tensor, a, b)) for a, b in ((reset_x, reset_h), (update_x, update_h))
    )
    new = w.call(n, aten.tanh.default, w.call(n, aten.add.Tensor, new_x, w.call(n, aten.mul.Tensor, reset, new_h)))
    change = w.call(n, aten.add.Tensor, hidden, w.call(n, aten.neg.default, new))
    return w.call(n, aten.add.Tensor, w.call(n, aten.mul.Tensor, change, update), new)


def _rnn(function: Any) -> Rewrite:
    return lambda w, n: w.call(n, function, w.call(n, aten.add.Tensor, *_products(w, n, n.args[1])))


CELLS: dict[Any, Rewrite] = {
    aten.lstm_cell.default: _lstm,
    aten.gru_cell.default: _gru,
    aten.rnn_tanh_cell.default: _rnn(aten.tanh.default),
    aten.rnn_relu_cell.default: _rnn(aten.relu.default),
}

"""Dampening of oscillations; :mod:`qat.adapters.torch.dampening` has the method and its source."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.nodes.linear import Linear

from .prepared_model import PreparedModel


def few_bits(model: PreparedModel) -> Iterator[Linear]:
    """Yield the nodes with a weight of fewer than 8 bits on the grid; of a tied weight one."""
    nodes = (model.nodes.get(planned.op.name) for planned in model.plan.few_bit_weights())
    yield from (node for node in nodes if isinstance(node, Linear))


def distance(model: PreparedModel) -> Tensor:
    """Return the squared distance of all weights of fewer than 8 bits from their grid, clipped weights at its end."""
    total = tf.zeros(())
    for node in few_bits(model):
        params = model.params_of(node.planned.op)
        weight = params["weight"]
        scale = node.weight_scale(weight, params.get("bias"))
        w_int, _ = node.quantized(weight, None, scale)
        spread = tf.reshape(scale, node.channels(weight))
        limit = float(node.planned.qmax) * spread
        total += tf.reduce_sum((tf.clip_by_value(weight, -limit, limit) - tf.stop_gradient(w_int * spread)) ** 2)
    return total

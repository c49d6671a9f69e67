"""Dampening of oscillations, as :mod:`qat.adapters.torch.dampening` has it, with its source."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from qat.adapters.keras.insert import PreparedModel
from qat.adapters.keras.nodes import Linear


def distance(model: PreparedModel) -> Any:
    """Return the squared distance of all weights of fewer than 8 bits from their grid, clipped weights at its end."""
    total = tf.zeros(())
    for planned in model.plan.ops:
        node = model.nodes.get(planned.op.name)
        if not planned.integer or not isinstance(node, Linear) or planned.weight is None or planned.weight.bits >= 8:
            continue
        params = {role: tf.convert_to_tensor(model.parameters[name]) for role, name in planned.op.params.items()}
        weight = params["weight"]
        scale = node.weight_scale(weight, params.get("bias"))
        w_int, _ = node.quantized(weight, None, scale)
        laid = tf.reshape(scale, node.channels(weight))
        limit = float(planned.qmax) * laid
        total += tf.reduce_sum((tf.clip_by_value(weight, -limit, limit) - tf.stop_gradient(w_int * laid)) ** 2)
    return total

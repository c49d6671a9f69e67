"""Float functions as the target's runtime computes them on this processor, see :mod:`qat.arithmetic.float_kernels`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import float_kernels


def _of_silu(x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    gate = tf.sigmoid(x)
    return (gate + y * (1.0 - gate)) * grad


#: From the inputs, the results and their gradient, that of the inputs.
_GRADIENTS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "softmax": lambda x, y, grad: y * (grad - tf.reduce_sum(grad * y, -1, keepdims=True)),
    "sigmoid": lambda x, y, grad: y * (1.0 - y) * grad,
    "tanh": lambda x, y, grad: (1.0 - y * y) * grad,
    "silu": _of_silu,
}


def as_runtime(kind: str, x: Tensor, kernels: str) -> Tensor | None:
    """Return a function, a softmax over the last axis, in the arithmetic of ``kernels``; None where that is not known."""
    form = float_kernels.as_runtime(kind, kernels, x.shape[1:]) if x.dtype == tf.float32 else None
    if form is None:
        return None

    @tf.custom_gradient
    def computed(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y = tf.numpy_function(form, (x,), tf.float32)
        y.set_shape(x.shape)
        return y, lambda grad: _GRADIENTS[kind](x, y, grad)

    y = computed(x)
    if kind == "softmax":
        y._keras_logits = x  # which Keras' losses take in place of the result
    return y


def activation(kernels: str) -> Callable[[Any, Tensor], Tensor | None]:
    """Return the function in the place of an ``Activation`` layer that is a softmax; it returns None of any other."""
    return lambda layer, x: as_runtime("softmax", x, kernels) if layer.activation is keras.activations.softmax else None

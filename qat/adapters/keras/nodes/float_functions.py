"""Float functions as the target's runtime computes them on this processor, see :mod:`qat.arithmetic.float_softmax`.

Most classifiers of Keras end in a softmax or in a sigmoid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import float_sigmoid
from qat.arithmetic.float_softmax import of_onnxruntime, of_xnnpack
from qat.system.machine import processor

#: The most numbers of a sample: they add a tenth to the evaluation of a small network of segmentation.
_LARGEST = 2**17
_FORMS: Mapping[str, Mapping[str, Callable[[np.ndarray], np.ndarray]]] = {
    "mlas": {"softmax": of_onnxruntime, **float_sigmoid.FUNCTIONS["mlas"]},
    "xnnpack": {"softmax": of_xnnpack, **float_sigmoid.FUNCTIONS["xnnpack"]},
}
#: From the results and their gradient, that of the inputs.
_GRADIENTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax": lambda y, grad: y * (grad - tf.reduce_sum(grad * y, -1, keepdims=True)),
    "sigmoid": lambda y, grad: y * (1.0 - y) * grad,
    "tanh": lambda y, grad: (1.0 - y * y) * grad,
}


def as_runtime(kind: str, x: Tensor, kernels: str) -> Tensor | None:
    """Return a function, a softmax over the last axis, in the arithmetic of ``kernels``; None where that is not known."""
    form, sizes = _FORMS.get(kernels, {}).get(kind), x.shape[1:]
    if form is None or None in sizes or not 0 < math.prod(sizes) <= _LARGEST or x.dtype != tf.float32 or not _is_known():
        return None

    @tf.custom_gradient
    def computed(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y = tf.numpy_function(form, (x,), tf.float32)
        y.set_shape(x.shape)
        return y, lambda grad: _GRADIENTS[kind](y, grad)

    y = computed(x)
    if kind == "softmax":
        y._keras_logits = x  # which Keras' losses take in place of the result
    return y


def activation(kernels: str) -> Callable[[Any, Tensor], Tensor | None]:
    """Return the function in the place of an ``Activation`` layer that is a softmax; it returns None of any other."""
    return lambda layer, x: as_runtime("softmax", x, kernels) if layer.activation is keras.activations.softmax else None


@functools.cache
def _is_known() -> bool:
    features = processor().features
    return bool(features.get("AVX2")) and not features.get("AVX512")

"""A float softmax as the target's runtime computes it on this processor; :mod:`qat.arithmetic.float_softmax` has the arithmetic.

Most classifiers of Keras end in one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.float_softmax import of_onnxruntime, of_xnnpack
from qat.system.machine import processor

#: The most numbers of a sample: 16 times as many add a fifth to the evaluation of a small network of segmentation.
_LARGEST = 2**12
_FORMS = {"mlas": of_onnxruntime, "xnnpack": of_xnnpack}


def softmax(x: Tensor, kernels: str) -> Tensor | None:
    """Return the softmax over the last axis in the arithmetic of ``kernels``; None where that is not known."""
    sizes = x.shape[1:]
    if kernels not in _FORMS or None in sizes or not 0 < math.prod(sizes) <= _LARGEST or x.dtype != tf.float32 or not _is_known():
        return None

    @tf.custom_gradient
    def computed(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y = tf.numpy_function(_FORMS[kernels], (x,), tf.float32)
        y.set_shape(x.shape)
        return y, lambda grad: y * (grad - tf.reduce_sum(grad * y, -1, keepdims=True))

    y = computed(x)
    y._keras_logits = x  # which Keras' losses take in place of the result
    return y


def activation(kernels: str) -> Callable[[Any, Tensor], Tensor | None]:
    """Return the function in the place of an ``Activation`` layer that is a softmax; it returns None of any other."""
    return lambda layer, x: softmax(x, kernels) if layer.activation is keras.activations.softmax else None


@functools.cache
def _is_known() -> bool:
    features = processor().features
    return bool(features.get("AVX2")) and not features.get("AVX512")

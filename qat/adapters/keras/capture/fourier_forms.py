"""Fourier transforms over axes of fixed sizes as products with matrices: the formats lack the operators."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops import math
from tensorflow import Tensor

_register = keras.saving.register_keras_serializable("qat")

#: The parts of complex numbers: real and imaginary.
Parts = tuple[Tensor, Tensor]


@_register
class FFT(math.FFT):
    """Over the last axis."""

    def call(self, x: Parts) -> Parts:
        """Return the parts of the transform."""
        return _transformed(x, (-1,))


@_register
class FFT2(math.FFT2):
    """Over the last two axes."""

    def call(self, x: Parts) -> Parts:
        """Return the parts of the transform."""
        return _transformed(x, (-1, -2))


@_register
class IFFT2(math.IFFT2):
    """Back from :class:`FFT2`."""

    def call(self, x: Parts) -> Parts:
        """Return the parts of the inverse transform."""
        return _transformed(x, (-1, -2), back=True)


#: The forms, and of each how many axes from the last have to be fixed.
FOURIER_FORMS = {"FFT": (FFT, 1), "FFT2": (FFT2, 2), "IFFT2": (IFFT2, 2)}


def fourier_form(layer: keras.Operation, given: Any) -> keras.Operation | None:
    """Return the form of a transform of Keras, whose first tensor is ``given``; None for another layer, or of free sizes."""
    form, axes = FOURIER_FORMS.get(type(layer).__name__, (None, 0))
    return form() if form is not None and None not in given.shape[-axes:] else None


def _transformed(x: Parts, axes: tuple[int, ...], back: bool = False) -> Parts:
    real, imaginary = x
    for axis in axes:
        size = real.shape[axis]
        angles = 2 * np.pi * np.outer(np.arange(size), np.arange(size)) / size
        cosines, sines = (tf.constant((f(angles) / (size if back else 1)).astype(np.float32)) for f in (np.cos, np.sin))
        sines = -sines if back else sines
        real, imaginary = (
            _along(axis, real, cosines) + _along(axis, imaginary, sines),
            _along(axis, imaginary, cosines) - _along(axis, real, sines),
        )
    return real, imaginary


def _along(axis: int, x: Tensor, matrix: Tensor) -> Tensor:
    """Return the products of a matrix, which is symmetric, and the lines along the last axis or the one before."""
    return tf.matmul(x, matrix) if axis == -1 else tf.matmul(matrix, x)

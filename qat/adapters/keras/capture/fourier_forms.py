"""Fourier transforms over axes of fixed sizes as products with matrices: the formats lack the operators."""

from __future__ import annotations

from collections.abc import Sequence
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


@_register
class STFT(math.STFT):
    """Of windows along the last axis."""

    def call(self, x: Tensor) -> Parts:
        """Return the parts of the transforms."""
        return _of_windows(self, x)


@_register
class MelSpectrogram(keras.layers.MelSpectrogram):
    """Magnitudes of :class:`STFT` in bands."""

    def _spectrogram(self, inputs: Tensor) -> Tensor:
        return _magnitude(_of_windows(self, inputs), self.mag_exp)


@_register
class ShortTime(keras.Operation):
    """``tf.signal.stft``.

    Args:
        frame_step: numbers between the windows' beginnings.
        fft_length: of the transform.
        window: by which a window is multiplied.
    """

    def __init__(self, frame_step: int, fft_length: int, window: Sequence[float], name: str | None = None) -> None:
        super().__init__(name=name)
        self.frame_step, self.fft_length, self.window = frame_step, fft_length, list(window)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"frame_step": self.frame_step, "fft_length": self.fft_length, "window": self.window, "name": self.name}

    def compute_output_spec(self, x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Return tensors ``[..., windows, frequencies]``."""
        shape = (*x.shape[:-1], 1 + (x.shape[-1] - len(self.window)) // self.frame_step, self.fft_length // 2 + 1)
        return keras.KerasTensor(shape, x.dtype), keras.KerasTensor(shape, x.dtype)

    def call(self, x: Tensor) -> Parts:
        """Return the parts of the transforms."""
        return _short_time(x, self.frame_step, self.fft_length, np.asarray(self.window))


@_register
class Magnitude(keras.Operation):
    """Of complex numbers."""

    def compute_output_spec(self, x: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        """Return a tensor like each part."""
        return keras.KerasTensor(x[0].shape, x[0].dtype)

    def call(self, x: Parts) -> Tensor:
        """Return the magnitudes."""
        return _magnitude(x, 1.0)


#: The forms, and of each how many axes from the last have to be fixed.
FOURIER_FORMS: dict[str, tuple[type[keras.Operation], int]] = {
    "FFT": (FFT, 1), "FFT2": (FFT2, 2), "IFFT2": (IFFT2, 2), "STFT": (STFT, 1), "MelSpectrogram": (MelSpectrogram, 1),
}  # fmt: skip


def fourier_form(layer: keras.Operation, given: Any) -> keras.Operation | None:
    """Return the form of a transform of Keras, whose first tensor is ``given``; None for another layer, or of free sizes."""
    form, axes = FOURIER_FORMS.get(type(layer).__name__, (None, 0))
    return form.from_config(layer.get_config()) if form is not None and None not in given.shape[-axes:] else None


def _of_windows(layer: Any, x: Tensor) -> Parts:
    """Return what ``keras.ops.stft`` does; the window lies in the middle of the transform."""
    length, size = layer.sequence_length, layer.fft_length
    window = np.ones(length) if layer.window is None else layer.window
    if isinstance(window, str):
        with tf.init_scope():  # as numbers, within a graph too
            window = np.asarray({"hann": tf.signal.hann_window, "hamming": tf.signal.hamming_window}[window](length))
    before = (size - length) // 2
    if layer.__dict__.get("center", True):
        x = tf.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[size // 2] * 2], "REFLECT")
    return _short_time(x, layer.sequence_stride, size, np.pad(window, (before, size - length - before)))


def _short_time(x: Tensor, step: int, size: int, window: np.ndarray) -> Parts:
    """Return the transforms of windows along the last axis, as products of them and two matrices."""
    starts = np.arange(0, x.shape[-1] - len(window) + 1, step)
    frames = tf.gather(x, starts[:, None] + np.arange(len(window)), axis=-1)
    angles = 2 * np.pi * np.outer(np.arange(len(window)), np.arange(size // 2 + 1)) / size
    real, imaginary = (tf.constant((window[:, None] * part).astype(np.float32)) for part in (np.cos(angles), -np.sin(angles)))
    return tf.matmul(frames, real), tf.matmul(frames, imaginary)


def _magnitude(x: Parts, exponent: float) -> Tensor:
    real, imaginary = x
    found = tf.sqrt(tf.square(real) + tf.square(imaginary))
    return found if exponent == 1.0 else tf.pow(found, exponent)


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

"""The one place where the name of a runtime's arithmetic leads to its module.

The bits of an operator differ between runtimes only in the way that its accumulator becomes an output. A target, a program and an
instruction name an arithmetic; all else asks :data:`KERNELS`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from . import mlas, tflite, tflite_builtin, tflite_builtin_depthwise, xnnpack
from .encoding import Encoding


class Kernels(Protocol):
    """The functions that the module of each runtime has. ``lo`` and ``hi`` are limits on the integer grid."""

    def quantize(self, x: np.ndarray, encoding: Encoding) -> np.ndarray:
        """Return real values on the integer grid, as float32."""

    def multiplier(self, input_scale: float, scale: np.ndarray, output_scale: float) -> np.ndarray:
        """Return ``(s_x * s_w) / s_y`` as the runtime prepares it."""

    def requantize(self, acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float) -> np.ndarray:
        """Return ``clamp(round(acc * multiplier), lo, hi)`` of an exact accumulator, as float32."""

    def add(
        self, a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float
    ) -> np.ndarray:  # fmt: skip
        """Return the sum on ``ey``'s grid."""

    def mul(
        self, a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float
    ) -> np.ndarray:  # fmt: skip
        """Return the product on ``ey``'s grid, element by element."""

    def mean(self, x: np.ndarray, axes: tuple[int, ...], ex: Encoding, ey: Encoding, keepdims: bool = False) -> np.ndarray:
        """Return the mean over axes on ``ey``'s grid."""

    def avg_pool2d(
        self,
        x: np.ndarray,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        padding: tuple[tuple[int, int], tuple[int, int]],
        encoding: Encoding,
    ) -> np.ndarray:
        """Return the averages over windows, with one scale in and out."""

    def product_multiplier(self, a_scale: float, b_scale: float, y_scale: float) -> float:
        """Return ``(s_a s_b) / s_y`` of a matrix product of two activations."""

    def exponentials(self, scale: float, length: int) -> np.ndarray:
        """Return the table that stands for ``exp`` in a softmax."""

    def softmax(self, x: np.ndarray, ex: Encoding, ey: Encoding, beta: float) -> np.ndarray:
        """Return the softmax over the last axis on ``ey``'s grid, an encoding of probabilities."""


#: By name: ONNX Runtime, LiteRT's delegate, TFLite's reference kernels, TFLite's optimized kernels and its depthwise one.
KERNELS: dict[str, Kernels] = {
    "mlas": mlas,
    "xnnpack": xnnpack,
    "reference": tflite,
    "builtin": tflite_builtin,
    "builtin_depthwise": tflite_builtin_depthwise,
}

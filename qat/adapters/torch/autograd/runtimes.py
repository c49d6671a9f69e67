"""The arithmetic of each runtime's kernels on tensors, by the name that a target has for it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from qat.arithmetic.encoding import Encoding

from . import mlas, tflite, xnnpack
from .clip_mask import Limits
from .functions import Encoded


class Runtime(Protocol):
    """The functions in which runtimes differ. Tensors are on the grid; those that take limits return evaluated integers.

    Training takes the float32 form of these formulas, which differs from the exact one by 1 in about one of 10^6 values.
    """

    def divide_by_scale(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return real values in units of a scale, not yet rounded."""

    def divide_by_count(self, total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
        """Return the averages of sums, not yet rounded."""

    def requantize(self, acc: Tensor, multiplier: float, limits: Limits) -> Tensor:
        """Return the accumulator of a product of two activations times a multiplier, on the output's grid."""

    def add(self, a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
        """Return ``a + b`` on the third grid."""

    def round_product(self, v: Tensor, grid: Encoded, limits: Limits) -> Tensor:
        """Return a rescaled product, element by element, on its grid."""

    def mean(self, total: Tensor, count: int, grids: tuple[Encoded, Encoded], limits: Limits) -> Tensor:
        """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second."""

    def avg_pool2d(self, total: Tensor, count: Tensor, grid: Encoded, limits: Limits, padded: bool) -> Tensor:
        """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""

    def probabilities(self, exponentials: Tensor, total: Tensor, encoding: Encoding) -> Tensor:
        """Return the integers of a softmax from the exponentials and their sum."""


RUNTIMES: dict[str, Runtime] = {"mlas": mlas, "xnnpack": xnnpack, "reference": tflite}

"""The arithmetic of each runtime's kernels, by the name that a target has for it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from tensorflow import Tensor

from . import mlas, xnnpack
from .functions import Encoded, Limits


class Runtime(Protocol):
    """The functions in which runtimes differ. Tensors are on the grid; those that take limits return evaluated integers."""

    def divide_by_scale(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return real values in units of a scale, not yet rounded."""

    def divide_by_count(self, total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
        """Return the averages of sums, not yet rounded."""

    def add(self, a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
        """Return ``a + b`` on the third grid."""

    def round_product(self, v: Tensor, grid: Encoded, limits: Limits) -> Tensor:
        """Return a rescaled product of two tensors on its grid."""

    def mean(self, total: Tensor, count: np.float32, grids: tuple[Encoded, Encoded], limits: Limits) -> Tensor:
        """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second."""

    def avg_pool2d(self, total: Tensor, count: Tensor, grid: Encoded, limits: Limits, padded: bool) -> Tensor:
        """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""


RUNTIMES: dict[str, Runtime] = {"mlas": mlas, "xnnpack": xnnpack}

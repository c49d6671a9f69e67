"""Operations that read the number of samples where the model runs, in place of those that were recorded with a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from tensorflow import Tensor


@keras.saving.register_keras_serializable("qat")
class SpreadOverBatch(keras.Operation):
    """Gives every sample of another tensor the same values.

    Args:
        shape: of the result, without its first axis.
    """

    def __init__(self, shape: Sequence[int | None], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.shape = tuple(shape)

    def call(self, x: Tensor, like: Tensor) -> Tensor:
        """Return ``x`` broadcast to as many samples as ``like`` has."""
        x = ops.convert_to_tensor(x)
        return ops.broadcast_to(x, (ops.shape(like)[0], *self.shape))

    def compute_output_spec(self, x: Any, like: keras.KerasTensor) -> keras.KerasTensor:
        """Return the result's shape and dtype."""
        return keras.KerasTensor((like.shape[0], *self.shape), keras.backend.standardize_dtype(x.dtype))


@dataclass(frozen=True)
class PerSample:
    """A constant that a call makes for each sample, all with the same values.

    Attributes:
        row: the values of one sample, with a first axis of one.
        like: a tensor with as many samples.
    """

    row: np.ndarray
    like: keras.KerasTensor

    def for_samples(self, count: int) -> Any:
        """Return the constant for a number of samples."""
        return ops.convert_to_tensor(np.repeat(self.row, count, 0))

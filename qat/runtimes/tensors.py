"""The tensors of an artifact that a runtime shows, and the check of the arrays that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qat.errors import DataError

#: The limits of the integers of a quantized tensor, by its type.
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
#: The types that a weight may be stored in.
WEIGHT_TYPES = ("int2", "int4", "uint4", "int8", "uint8", "float16", "float32", "float64")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an artifact. None in ``shape`` is a dynamic size, ``scale`` is None for a float tensor."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0


@dataclass(frozen=True)
class Weight:
    """A constant of at least two axes, as the artifact stores it. ``scale`` is None for a float one."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: np.ndarray | None = None


def check_shapes(arrays: Sequence[np.ndarray], inputs: Sequence[TensorInfo]) -> None:
    """Check that arrays fit the inputs of an artifact. The first size, the batch, is free.

    Raises:
        DataError: their number or a shape does not fit.
    """
    if len(arrays) != len(inputs):
        raise DataError(f"the artifact takes {len(inputs)} inputs, not {len(arrays)}")
    for array, info in zip(arrays, inputs, strict=True):
        want, have = info.shape, tuple(array.shape)
        if len(have) != len(want) or any(w not in (None, h) for w, h in zip(want[1:], have[1:], strict=True)):
            shown = "x".join(["batch", *("?" if d is None else str(d) for d in want[1:])])
            raise DataError(f"input '{info.name}' of the artifact is {shown}, the data is {'x'.join(map(str, have))}")

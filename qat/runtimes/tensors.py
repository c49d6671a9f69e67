"""The tensors of an artifact that a runtime shows, and the check of the arrays that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qat.errors import DataError
from qat.system.sample_axes import Axes, Size, sample_axes

#: The limits of the integers of a quantized tensor, by its type.
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
#: The types that a weight may be stored in.
WEIGHT_TYPES = ("int2", "int4", "uint4", "int8", "uint8", "float16", "float32", "float64")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an artifact. None in ``shape`` is a dynamic size, ``scale`` is None for a float tensor.

    ``free`` has the names of an ``.onnx``'s dynamic sizes by their axes.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0
    free: Mapping[int, str] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes, of dynamic ones the names."""
        return tuple(self.free.get(axis, n) for axis, n in enumerate(self.shape))


@dataclass(frozen=True)
class Weight:
    """A constant of at least two axes, as the artifact stores it. ``scale`` is None for a float one."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: np.ndarray | None = None


def axes_of(inputs: Sequence[TensorInfo]) -> Axes:
    """Return the axes of the inputs that count the samples."""
    return sample_axes([info.sizes for info in inputs])[1]


def check_shapes(arrays: Sequence[np.ndarray], inputs: Sequence[TensorInfo], axes: Axes) -> None:
    """Check that arrays fit the inputs of an artifact. The batch, along ``axes``, is free.

    Raises:
        DataError: their number or a shape does not fit.
    """
    if len(arrays) != len(inputs):
        raise DataError(f"the artifact takes {len(inputs)} inputs, not {len(arrays)}")
    for array, info, axis in zip(arrays, inputs, axes, strict=True):
        have, want = tuple(array.shape), tuple(None if place == axis else size for place, size in enumerate(info.shape))
        if len(have) != len(want) or any(w not in (None, h) for w, h in zip(want, have, strict=True)):
            shown = "x".join("batch" if place == axis else "?" if d is None else str(d) for place, d in enumerate(want))
            raise DataError(f"input '{info.name}' of the artifact is {shown}, the data is {'x'.join(map(str, have))}")

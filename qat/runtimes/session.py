"""What every session of a runtime shares: its inputs and outputs, and the checks of what it is fed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qat.errors import DataError

#: Of the integers that a quantized tensor may hold, by its type.
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an artifact. None in ``shape`` is a dynamic size, ``scale`` is None for a float tensor."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0


class Session(Protocol):
    """An artifact opened in its runtime. It takes and gives float32 arrays, in a batch of any size."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs in the artifact's order."""

    def run_named(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name."""

    def stored(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return inputs in the types that the file takes."""

    def invoke(self, *stored: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs for inputs in the types that the file takes: the runtime's part of :meth:`run` alone."""

    def runs(self) -> dict[str, Counter[str]]:
        """Count the operators that really run, by the part of the runtime that runs them."""


def check_shapes(arrays: tuple[Any, ...], inputs: tuple[TensorInfo, ...]) -> None:
    """Raise DataError unless the arrays fit an artifact's inputs. The first size, the batch, is free."""
    if len(arrays) != len(inputs):
        raise DataError(f"the artifact takes {len(inputs)} inputs, not {len(arrays)}")
    for array, info in zip(arrays, inputs, strict=True):
        want, have = info.shape, tuple(array.shape)
        if len(have) != len(want) or any(w not in (None, h) for w, h in zip(want[1:], have[1:], strict=True)):
            shown = "x".join(["batch", *("?" if d is None else str(d) for d in want[1:])])
            raise DataError(f"input '{info.name}' of the artifact is {shown}, the data is {'x'.join(map(str, have))}")

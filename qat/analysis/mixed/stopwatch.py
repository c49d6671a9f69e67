"""The time of a kernel in its runtime: the median of many calls on one thread, less that of a call that does nothing."""

from __future__ import annotations

import time
from collections.abc import Hashable

import numpy as np

from qat.runtimes import Session

from .single_layers import SingleFile

#: Calls before the clock runs, the least and the most timed ones, and the seconds after which those between are enough.
_WARM_UP, _LEAST, _MOST, _SECONDS = 3, 15, 200, 0.1


class Stopwatch:
    """Times files of single layers; what has been timed is known by its key."""

    def __init__(self) -> None:
        self._known: dict[Hashable, float] = {}

    def ms(self, key: Hashable, file: SingleFile) -> float:
        """Return the milliseconds of a call for one sample.

        Args:
            key: of what the time depends on: the kernel and its shapes.
            file: that is timed where the key is new.
        """
        if key not in self._known:
            self._known[key] = 1e3 * _median(file)
        return self._known[key]


def _median(file: SingleFile) -> float:
    """Return the seconds of a call in the median."""
    session: Session = file.file_format.open(file.raw, kernels=file.kernels)
    random = np.random.default_rng(0)
    arrays = [_sample(random, shape, info.dtype) for shape, info in zip(file.shapes, session.inputs, strict=True)]
    for _ in range(_WARM_UP):
        session.invoke(*arrays)
    taken: list[float] = []
    ends = time.perf_counter() + _SECONDS
    while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() < ends):
        started = time.perf_counter()
        session.invoke(*arrays)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def _sample(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return random.normal(size=shape).astype(dtype)
    if np.dtype(dtype).itemsize > 2:
        return np.zeros(shape, dtype)  # indices
    return random.integers(0, 100, shape).astype(dtype)

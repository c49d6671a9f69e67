"""Artifacts run in their own runtimes: their outputs on the data, and their latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qat.errors import DataError, RuntimeMismatchError
from qat.program.layout import LAYOUTS, permutation
from qat.runtimes import Session, TensorInfo, open_session
from qat.runtimes.model_file import ModelFile
from qat.typing import Inputs

#: The turns of the timing that warm a runtime up, and are not counted.
_WARM_UP = 5

Axes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Run:
    """What a file did on the data; ``outputs`` and ``latency`` (median and 95th percentile, ms) are None where it did not run."""

    file: ModelFile
    outputs: np.ndarray | None = None
    latency: tuple[float, float] | None = None


def run_all(files: Sequence[ModelFile], batches: Sequence[tuple[Inputs, object]], latency_runs: int) -> list[Run]:
    """Run every file on the inputs of the batches, and time all of them in turn on the first sample.

    Raises:
        DataError: a file does not take the inputs.
        RuntimeMismatchError: a file gives NaN.
    """
    first = batches[0][0]
    feeds = [None if file.path is None else _Feed(file, first) for file in files]
    outputs = [None if feed is None else feed.outputs(batches) for feed in feeds]
    latencies = iter(_latencies([feed for feed in feeds if feed is not None], first, latency_runs))
    return [
        Run(file) if feed is None else Run(file, out, next(latencies))
        for file, feed, out in zip(files, feeds, outputs, strict=True)
    ]


class _Feed:
    """An open artifact, and the axes by which it takes the data's arrays."""

    def __init__(self, file: ModelFile, inputs: Inputs) -> None:
        assert file.path is not None
        self.path, self.session = file.path, open_session(file.path, threads=1)
        self.axes = file.axes or _turns(self.session, _arrays(inputs))

    def arrays(self, inputs: Inputs) -> list[np.ndarray]:
        """Return the inputs of a batch as the artifact takes them."""
        arrays = _arrays(inputs)
        axes = self.axes or (None,) * len(arrays)
        return [array if turn is None else array.transpose(turn) for array, turn in zip(arrays, axes, strict=True)]

    def outputs(self, batches: Sequence[tuple[Inputs, object]]) -> np.ndarray:
        """Return the first output for all samples."""
        parts = []
        for inputs, _ in batches:
            try:
                parts.append(self.session.run(*self.arrays(inputs))[0])
            except DataError as error:
                raise DataError(f"{self.path}: {error}") from error
        out = np.concatenate(parts)
        if np.isnan(out).any():
            raise RuntimeMismatchError(f"{self.path} gives NaN: check the float model's weights and the data")
        return out


def _arrays(inputs: Inputs) -> list[np.ndarray]:
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    return [np.asarray(value, np.float32) for value in values]


def _turns(session: Session, arrays: Sequence[np.ndarray]) -> Axes:
    """Return for each input the axes that turn the data's images into the artifact's, where they fit in the other layout only."""

    def fits(info: TensorInfo, shape: Sequence[int]) -> bool:
        return len(info.shape) == len(shape) and all(want in (None, n) for want, n in zip(info.shape[1:], shape[1:], strict=True))

    def turn(info: TensorInfo, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        ways = (None, *(permutation(len(shape), source, target) for source, target in (LAYOUTS, LAYOUTS[::-1])))
        return next((w for w in ways if fits(info, shape if w is None else [shape[a] for a in w])), None)

    if len(arrays) != len(session.inputs):
        return ()
    return tuple(turn(info, array.shape) for info, array in zip(session.inputs, arrays, strict=True))


def _latencies(feeds: Sequence[_Feed], inputs: Inputs, runs: int) -> list[tuple[float, float] | None]:
    """Time the artifacts in turn, so that a change of the machine's speed meets all of them; each gets the types of its file."""
    ones = [feed.session.in_file_types(*(array[:1] for array in feed.arrays(inputs))) for feed in feeds]
    times: list[list[float]] = [[] for _ in feeds]
    for turn in range(runs + _WARM_UP if runs else 0):
        for feed, one, taken in zip(feeds, ones, times, strict=True):
            started = time.perf_counter()
            feed.session.invoke(*one)
            if turn >= _WARM_UP:
                taken.append(1e3 * (time.perf_counter() - started))
    return [(float(np.median(t)), float(np.percentile(t, 95))) if t else None for t in times]

"""Artifacts run in their own runtimes: their outputs on the data, and their latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations
from typing import TypeAlias

import numpy as np

from qat.arithmetic.spread import spread
from qat.display.progress import bar, tracked
from qat.errors import DataError, RuntimeMismatchError
from qat.program.caller_names import caller_names
from qat.program.layout import LAYOUTS, permutation
from qat.runtimes import Session, TensorInfo, open_session
from qat.runtimes.model_file import ModelFile
from qat.runtimes.tensors import axes_of
from qat.system.machine import usable_threads
from qat.system.nests import array_leaves
from qat.system.sample_axes import cut
from qat.typing import Inputs

#: The turns of the timing that warm a runtime up, and are not counted.
_WARM_UP = 5

Axes = tuple[tuple[int, ...] | None, ...]
#: The outputs of each batch.
Outputs = Sequence[tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Run:
    """What a file did on the data.

    Attributes:
        file: the file.
        outputs: of each batch, in the file's order; None where the file did not run.
        names: by which a caller asks for the outputs, in their order.
        latency: median and 95th percentile in ms; None where the file was not timed.
    """

    file: ModelFile
    outputs: Outputs | None = None
    names: tuple[str, ...] = ()
    latency: tuple[float, float] | None = None

    def joined(self) -> Sequence[np.ndarray]:
        """Return each output for all samples."""
        return [np.concatenate(parts) for parts in zip(*self.outputs or (), strict=True)]


#: Looks at the inputs of a batch and the outputs of each file; None of one that did not run.
Watch: TypeAlias = Callable[[Inputs, Sequence[tuple[np.ndarray, ...] | None]], None]


def run_all(
    files: Sequence[ModelFile],
    batches: Iterable[Inputs],
    latency_runs: int,
    count: int | None = None,
    watch: Watch | None = None,
) -> list[Run]:
    """Run every file on the inputs of the batches, on all threads, and time all of them in turn on the first sample, on one.

    The batches are read once, and none is kept; ``watch`` sees each of them. The outputs of a file come in the order of the first
    file's: a converter may order several otherwise, see :func:`_order`.

    Raises:
        DataError: a file does not take the inputs.
        RuntimeMismatchError: a file gives NaN.
    """
    left = iter(batches)
    first = next(left)
    feeds = [None if file.path is None else _Feed(file, first) for file in files]
    found: list[list[tuple[np.ndarray, ...]] | None] = [None if feed is None else [] for feed in feeds]
    reference: _Reference | None = None
    with bar("running the files", None if count is None else count * len(files)) as progress:
        for inputs in chain([first], left):
            for file, feed, parts in zip(files, feeds, found, strict=True):
                progress.note = file.name
                if feed is not None and parts is not None:
                    outputs = feed.outputs(inputs)
                    reference = reference or _Reference(feed.session.output_names, outputs)
                    parts.append(feed.ordered(outputs, reference))
                progress.advance()
            if watch is not None:
                watch(inputs, [None if parts is None else parts[-1] for parts in found])
    pairs = zip(files, feeds, found, strict=True)
    ran = [Run(file) if feed is None else Run(file, out, feed.names) for file, feed, out in pairs]
    latencies = iter(_latencies([feed for feed in feeds if feed is not None], first, latency_runs))
    return [run if run.outputs is None else replace(run, latency=next(latencies)) for run in ran]


@dataclass(frozen=True)
class _Reference:
    """The outputs of the first file that runs: their names, and their values for the first batch."""

    names: tuple[str, ...]
    outputs: tuple[np.ndarray, ...]


class _Feed:
    """An open artifact, and the axes by which it takes the data's arrays."""

    def __init__(self, file: ModelFile, inputs: Inputs) -> None:
        assert file.path is not None
        self.path, self.session = file.path, open_session(file.path, threads=usable_threads())
        self.axes = file.axes or _turns(self.session, _arrays(inputs, self.session.input_names))
        self.order: tuple[int, ...] | None = None

    def arrays(self, inputs: Inputs) -> list[np.ndarray]:
        """Return the inputs of a batch as the artifact takes them."""
        arrays = _arrays(inputs, self.session.input_names)
        axes = self.axes or (None,) * len(arrays)
        return [array if turn is None else array.transpose(turn) for array, turn in zip(arrays, axes, strict=True)]

    def outputs(self, inputs: Inputs) -> tuple[np.ndarray, ...]:
        """Return the outputs for a batch."""
        try:
            outputs = self.session.run(*self.arrays(inputs))
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error
        if any(np.isnan(out).any() for out in outputs):
            raise RuntimeMismatchError(f"{self.path} gives NaN: check the float model's weights and the data")
        return outputs

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs' names, in their order."""
        names = tuple(self.session.output_names)
        return names if self.order is None else tuple(names[i] for i in self.order)

    def ordered(self, outputs: tuple[np.ndarray, ...], reference: _Reference) -> tuple[np.ndarray, ...]:
        """Return the outputs of a batch in the order of the reference's, and a single image in its layout."""
        if len(outputs) != len(reference.outputs):
            return outputs
        if len(outputs) == 1:
            return (turned(outputs[0], (len(outputs[0]), *reference.outputs[0].shape[1:])),)
        if self.order is None:
            self.order = _order(self.session.output_names, outputs, reference)
        return tuple(outputs[i] for i in self.order)


def turned(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return images in the layout of a shape, where they fit it in the other layout only; else as they are."""
    ways = (permutation(array.ndim, source, target) for source, target in (LAYOUTS, LAYOUTS[::-1]))
    found = (w for w in ways if w is not None and tuple(array.shape[a] for a in w) == shape)
    way = None if array.shape == shape else next(found, None)
    return array if way is None else array.transpose(way)


#: More outputs than these are taken in the files' order: the permutations would be too many.
_MOST_ALIGNED = 6


def _order(names: Sequence[str], found: tuple[np.ndarray, ...], reference: _Reference) -> tuple[int, ...]:
    """Return the order of the reference's outputs: by their names, or as the first batch differs least from its."""

    def distance(order: Sequence[int]) -> float:
        pairs = [(found[i], want) for i, want in zip(order, reference.outputs, strict=True)]
        if any(a.shape != b.shape for a, b in pairs):
            return float("inf")
        return float(sum(((a.astype(np.float64) - b) ** 2).mean() / spread(b) ** 2 for a, b in pairs))

    if sorted(names) == sorted(reference.names):
        return tuple(map(list(names).index, reference.names))
    return min(permutations(range(len(found))), key=distance) if len(found) <= _MOST_ALIGNED else tuple(range(len(found)))


def _arrays(inputs: Inputs, names: Sequence[str]) -> list[np.ndarray]:
    """Return the inputs of a batch in the order of a file's; those that are given by other names than the file's as they come."""
    found = array_leaves(inputs)
    given = dict(zip(caller_names([path for path, _ in found], [""] * len(found)), (leaf for _, leaf in found), strict=True))
    values = [given[name] for name in names] if set(names) == set(given) else given.values()
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
    sessions = [open_session(feed.path, threads=1) if runs else feed.session for feed in feeds]
    ones = [feed.session.in_file_types(*cut(feed.arrays(inputs), axes_of(feed.session.inputs), 0, 1)) for feed in feeds]
    times: list[list[float]] = [[] for _ in feeds]
    turns = range(runs + _WARM_UP if runs else 0)
    for turn in tracked(turns, "timing", still=True):
        for session, one, taken in zip(sessions, ones, times, strict=True):
            started = time.perf_counter()
            session.invoke(*one)
            if turn >= _WARM_UP:
                taken.append(1e3 * (time.perf_counter() - started))
    return [(float(np.median(t)), float(np.percentile(t, 95))) if t else None for t in times]

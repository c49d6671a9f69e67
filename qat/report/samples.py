"""The samples of a comparison that tell most of an artifact: those whose answer changed, then those that drifted most.

They are chosen while the data flows by, so that a dozen inputs are kept, however many there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qat.runtimes.model_file import ModelFile
from qat.system.nests import array_leaves, mapped
from qat.trainers.metrics import default_metrics

from .differences import error_of
from .statistics import are_probabilities, probabilities

#: How many samples are kept.
KEPT = 12


def class_axis(output: np.ndarray, labels: Any) -> int | None:
    """Return the axis of a batch of outputs that holds class scores, by the labels where there are any; None without one."""
    if not isinstance(labels, np.ndarray):
        return -1 if output.ndim == 2 and output.shape[1] > 1 else None
    if not {m.name for m in default_metrics(output[: len(labels)], labels)} & {"top1", "pixel_accuracy"}:
        return None
    return 1 if output.ndim > 3 and output.shape[2:] == tuple(n for n in labels.shape[1:] if n != 1) else -1


@dataclass(frozen=True, eq=False)
class ComparedSample:
    """A sample, and what both files make of it. Arrays are of the one sample, without an axis for the batch.

    Attributes:
        index: in the data, from 0.
        inputs: as the data gives them.
        label: its label, or several; None where the data has none.
        reference: the outputs of the reference.
        outputs: those of the file that is examined.
        axis: of the first output, that of the class scores, from the end; None where it holds none.
        changed: the share of answers (one, or one a pixel) that are not the reference's; None without class scores.
        drift: the change of the largest probability; None where the sample is not one class.
        mse: the mean squared difference of all outputs.
    """

    index: int
    inputs: tuple[np.ndarray, ...]
    label: Any
    reference: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    axis: int | None
    changed: float | None
    drift: float | None
    mse: float

    @property
    def rank(self) -> tuple[float, float, float]:
        """What is worth seeing first is greatest."""
        return self.changed or 0.0, self.drift or 0.0, self.mse

    @property
    def is_one_answer(self) -> bool:
        """Whether the sample is one class, not a map of them."""
        return self.axis is not None and self.outputs[0].ndim == 1

    @property
    def verdict(self) -> Literal["MATCH", "FLIP", ""]:
        """Whether both files answer the sample alike; empty where it is not one class."""
        return ("FLIP" if self.changed else "MATCH") if self.is_one_answer else ""

    def answer(self, outputs: Sequence[np.ndarray]) -> tuple[int, float]:
        """Return the class that outputs (:attr:`reference` or :attr:`outputs`) choose, and its probability, 0 to 1."""
        shares = probabilities(outputs[0], known=are_probabilities(self.reference[0]))
        return int(shares.argmax()), float(shares.max())


class Chooser:
    """Keeps the samples that tell most of one file.

    Attributes:
        examined: the name of the file; empty where there is none to examine.
    """

    def __init__(self, files: Sequence[ModelFile], axis_of: Callable[[np.ndarray, Any], int | None] = class_axis) -> None:
        ran = [i for i, file in enumerate(files) if file.path is not None]
        self._reference = next((i for i in ran if files[i].kind == "float"), ran[0] if ran else 0)
        others = [i for i in ran if i != self._reference and files[i].kind not in ("float", "control")]
        # What one would ship: the trained file, else a PTQ one.
        self._file = max(others, key=lambda i: (files[i].kind == "qat", -i), default=None)
        self.examined = "" if self._file is None else files[self._file].name
        self._kept: list[tuple[tuple[float, float, float], int, ComparedSample]] = []
        self._seen, self._axis_of = 0, axis_of
        self._axis: int | None = None

    def see(self, inputs: Any, labels: Any, outputs: Sequence[tuple[np.ndarray, ...] | None]) -> None:
        """Look at a batch: its inputs, its labels (or None), and the outputs of every file."""
        wanted = outputs[self._reference]
        found = None if self._file is None else outputs[self._file]
        arrays = _arrays(inputs)
        count, first = len(arrays[0]), self._seen
        self._seen += count
        if wanted is None or found is None or [y.shape for y in wanted] != [y.shape for y in found]:
            return
        if any(y.shape[:1] != (count,) for y in wanted):
            return
        arrays = tuple(x for x in arrays if x.shape[:1] == (count,))  # without a mask of all samples, and states
        if first == 0:
            self._axis = self._axis_of(wanted[0], labels)
        changed, drift, mse = _distances(wanted, found, self._axis)
        axis = None if self._axis is None else self._axis % wanted[0].ndim - wanted[0].ndim
        for i in np.lexsort((mse, drift, changed))[::-1][:KEPT]:
            rank = float(changed[i]), float(drift[i]), float(mse[i])
            if len(self._kept) == KEPT and (rank, -first - i) <= self._kept[0][:2]:
                break
            sample = ComparedSample(
                first + int(i), _one(arrays, i), _label(labels, i), _one(wanted, i), _one(found, i), axis,
                None if axis is None else rank[0], rank[1] if axis == -1 and wanted[0].ndim == 2 else None, rank[2],
            )  # fmt: skip
            push = heapq.heappushpop if len(self._kept) == KEPT else heapq.heappush
            push(self._kept, (rank, -sample.index, sample))

    def chosen(self) -> tuple[ComparedSample, ...]:
        """Return what is kept, the most telling first."""
        return tuple(sample for *_, sample in sorted(self._kept, key=lambda kept: kept[:2], reverse=True))


def _distances(
    wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], axis: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each sample the share of changed answers, the drift (0 where it is unknown), and the mean squared difference."""
    count = len(wanted[0])
    squares = sum((error_of(b, a) ** 2).reshape(count, -1).sum(1) for a, b in zip(wanted, found, strict=True))
    mse = np.asarray(squares) / max(sum(a[0].size for a in wanted), 1)
    if axis is None:
        return np.zeros(count), np.zeros(count), mse
    a, b = wanted[0], found[0]
    changed = (a.argmax(axis) != b.argmax(axis)).reshape(count, -1).mean(1)
    if a.ndim > 2:  # the softmax of maps would take as long as some nets
        return changed, np.zeros(count), mse
    known = are_probabilities(a)
    return changed, np.abs(probabilities(a, known=known).max(1) - probabilities(b, known=known).max(1)), mse


def _arrays(inputs: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(value) for _, value in array_leaves(inputs))


def _one(arrays: Sequence[np.ndarray], index: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array(array[index]) for array in arrays)


def _label(labels: Any, index: int) -> Any:
    if isinstance(labels, list) and labels and isinstance(labels[0], Mapping):  # one a sample
        return labels[index]
    return mapped(lambda array: array[index] if len(array) > index else None, labels)

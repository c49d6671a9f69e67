"""Evidence: what calibration saw, and whether the data that come later look like it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qat.display.page import Displayed, Page
from qat.display.table import Column, Table
from qat.system.samples import parts_of
from qat.typing import PreparedModel

from . import doubts
from .doubts import Doubt

log = logging.getLogger("qat")

#: Later data whose largest value differs from that of calibration by this factor are scaled otherwise.
_OTHER_SCALE = 50.0

#: The share of later input values beyond the calibrated range that is worth a warning.
_MANY_BEYOND = 0.01


@dataclass
class _InputEvidence:
    """The extremes of one input so far, of each channel where the input is images."""

    low: np.ndarray
    high: np.ndarray
    is_float: bool

    @classmethod
    def of(cls, x: np.ndarray, layout: str) -> _InputEvidence:
        axis = {"NCHW": 1, "NHWC": 3}[layout] if x.ndim == 4 else None
        rest = None if axis is None else tuple(i for i in range(4) if i != axis)
        return cls(np.atleast_1d(x.min(rest)), np.atleast_1d(x.max(rest)), bool(np.issubdtype(x.dtype, np.floating)))

    def widen(self, other: _InputEvidence) -> None:
        if self.low.shape == other.low.shape:
            self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        else:  # a free number of channels
            self.low, self.high = (
                np.minimum(self.low.min(), other.low.min(keepdims=True)),
                np.maximum(self.high.max(), other.high.max(keepdims=True)),
            )

    def doubts(self, name: str) -> Iterator[Doubt]:
        yield from doubts.of_constants(name, self.low, self.high)
        yield from doubts.of_pixels(name, float(self.low.min()), float(self.high.max()), self.is_float)


@dataclass(repr=False)
class Evidence(Displayed):
    """The calibration samples: how many, drawn from where, of which classes, between which values."""

    layout: str
    names: Sequence[str]
    samples: int = 0
    classes: set[int] = field(default_factory=set)
    inputs: dict[str, _InputEvidence] = field(default_factory=dict)
    source: str = ""
    of_scales: tuple[doubts.Doubt, ...] = ()

    def add(self, arrays: Sequence[np.ndarray], labels: Any) -> None:
        """Add a batch, and its labels where there are any."""
        self.samples += len(arrays[0]) if arrays[0].ndim else 1
        for name, x in zip(self.names, arrays, strict=False):
            if x.size:
                found = _InputEvidence.of(x, self.layout)
                if name in self.inputs:
                    self.inputs[name].widen(found)
                else:
                    self.inputs[name] = found
        if labels is not None and hasattr(labels, "shape"):
            y = np.asarray(labels)
            if np.issubdtype(y.dtype, np.integer) and y.shape == (len(arrays[0]),):
                self.classes.update(int(c) for c in np.unique(y))

    def __repr__(self) -> str:
        return f"Evidence({self.line()})"

    def page(self) -> Page:
        """Return the evidence in one line, the range of each input where there are several, and the warnings."""
        columns = (Column("input"), Column("lowest", right=True), Column("highest", right=True))
        rows = tuple((name, f"{found.low.min():.4g}", f"{found.high.max():.4g}") for name, found in self.inputs.items())
        tables = (Table(columns, rows),) if len(rows) > 1 else ()
        return Page((f"calibration saw {self.line()}", *tables, *(f"warning: {sentence}" for sentence in self.warnings())))

    def line(self) -> str:
        """Return the evidence in one line."""
        parts = [doubts.counted(self.samples), *([self.source] if self.source else [])]
        if self.classes:
            parts.append(f"{len(self.classes)} {'class' if len(self.classes) == 1 else 'classes'}")
        for name, found in self.inputs.items():
            of = f" of '{name}'" if len(self.inputs) > 1 else ""
            parts.append(f"values{of} from {found.low.min():.4g} to {found.high.max():.4g}")
        return ", ".join(parts)

    def warnings(self) -> Iterator[str]:
        """Yield one sentence for each reason to distrust the ranges."""
        yield from map(str, doubts.of_number(self.samples))
        yield from map(str, doubts.of_classes(self.classes, self.samples))
        for name, found in self.inputs.items():
            yield from map(str, found.doubts(name))
        yield from map(str, self.of_scales)

    def log(self, checked: bool = False) -> None:
        """Log the evidence, and each warning; of data that were ``checked`` the checks have said them."""
        log.info("calibration saw %s", self.line())
        for sentence in map(str, self.of_scales) if checked else self.warnings():
            log.warning("%s", sentence)


def labels_of(sample: Any, inputs: int) -> Any:
    """Return the labels of a batch, None of one that has none."""
    return parts_of(sample, inputs).labels


def _input_ranges(model: PreparedModel) -> dict[str, tuple[float, float]]:
    """Return the calibrated range of each input of a prepared model that has one, by name.

    Where calibration saw more than the range holds, as an estimator that cuts tails off has it, that counts.
    """
    grids = {tensor: grid for grid in model.grids.values() for tensor in grid.group.tensors}
    found = {}
    for name in model.plan.graph.inputs:
        if name in grids:
            limits = grids[name].range  # type: ignore[attr-defined]
            low, high = float(limits[0]), float(limits[1])
            least, most = grids[name].spans.ends.get(name, (low, high))  # type: ignore[attr-defined]
            found[name] = (min(low, least), max(high, most))
    return found


def warn_of_other_scale(model: PreparedModel, arrays: Sequence[np.ndarray], where: str) -> None:
    """Warn where the values of a batch are on another scale than those that calibrated the model's inputs."""
    ranges = _input_ranges(model)
    for name, x in zip(model.plan.graph.inputs, arrays, strict=False):
        if name not in ranges or not x.size:
            continue
        calibrated, found = max(map(abs, ranges[name])), float(np.abs(x).max())
        if min(calibrated, found) > 0 and not 1 / _OTHER_SCALE < found / calibrated < _OTHER_SCALE:
            log.warning(
                "%s has values of '%s' up to %.4g, calibration saw up to %.4g: was one of them divided by 255, the other not?",
                where, name, found, calibrated,
            )  # fmt: skip


class Beyond:
    """Counts the input values of later data that lie beyond the calibrated ranges."""

    def __init__(self, model: PreparedModel) -> None:
        self._names, self._ranges = model.plan.graph.inputs, _input_ranges(model)
        self._beyond, self._values = 0, 0

    def counted(self, data: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of ``data``, counting their values."""
        for batch in data:
            arrays = batch if isinstance(batch, (tuple, list)) else (batch,)
            for name, x in zip(self._names, arrays, strict=False):
                if name in self._ranges:
                    low, high = self._ranges[name]
                    values = np.asarray(x)
                    slack = (high - low) / 510  # half a step: such a value is rounded to the limit
                    self._beyond += int(((values < low - slack) | (values > high + slack)).sum())
                    self._values += values.size
            yield batch

    def log(self) -> None:
        """Log the share of values beyond; a warning where there are many."""
        if self._values:
            share = self._beyond / self._values
            level = logging.WARNING if share > _MANY_BEYOND else logging.INFO
            hint = ": calibrate on data like these" if share > _MANY_BEYOND else ""
            log.log(level, "%.2f %% of the verified input values lie beyond the calibrated range%s", 100 * share, hint)

"""What was seen of a set of samples, in one pass that keeps none of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qat.errors import reason_of
from qat.frameworks import adapter_for, framework_of
from qat.typing import Layout

from .descriptors import autocorrelation, describe, moments, projected
from .kinds import InputKind
from .reading import Batch, batches
from .streams import Distinct, Moments, Records, Reservoir

#: The samples whose descriptors are kept for two-sample tests: of those that calibrate, and of the reference.
KEPT, KEPT_OF_REFERENCE = 1024, 4096


@dataclass
class Whiteness:
    """The mean correlation of neighbouring values, and how far from zero that of white noise may lie."""

    total: float = 0.0
    samples: int = 0
    pairs: float = 0.0

    def add(self, planes: np.ndarray) -> None:
        """Add images or signals ``[n, channels, height, width]``."""
        values = planes.shape[2] * planes.shape[3]
        found = autocorrelation(planes) + 1 / max(values - 1, 1)  # less the mean of a random order
        finite = np.isfinite(found)
        self.total += float(found[finite].sum())
        self.samples += int(finite.sum())
        # Channels may be copies of each other: those of a sample count once.
        self.pairs += int(finite.sum()) * (values if min(planes.shape[2:]) == 1 else 2 * values)

    @property
    def mean(self) -> float:
        """The mean over the samples."""
        return self.total / max(self.samples, 1)

    @property
    def deviation(self) -> float:
        """The standard deviation of that mean for white noise: one over the root of the number of pairs."""
        return 1 / max(self.pairs, 1.0) ** 0.5


@dataclass
class SeenInput:
    """One input: its kind, and the statistics of its values."""

    kind: InputKind
    shape: tuple[int, ...]
    dtype: np.dtype
    moments: Moments
    records: Records = field(default_factory=Records)
    whiteness: Whiteness = field(default_factory=Whiteness)
    not_finite: int | None = None

    @property
    def is_float(self) -> bool:
        """Whether the values are no integers."""
        return np.issubdtype(self.dtype, np.floating)

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return float(self.moments.low.min()), float(self.moments.high.max())

    @property
    def spread(self) -> tuple[float, float]:
        """The mean and the standard deviation of all values."""
        m = self.moments
        total = max(m.count.sum(), 1)
        mean = (m.count * m.mean).sum() / total
        return float(mean), float(np.sqrt((m.squares + m.count * (m.mean - mean) ** 2).sum() / total))


@dataclass(frozen=True)
class Row:
    """What is kept of a sample: its class, the descriptors of its inputs, and the features that the model has of it."""

    label: int | None
    inputs: tuple[np.ndarray, ...]
    features: np.ndarray | None


class Seen:
    """A set of samples: how many, of which classes, the statistics of each input, and the descriptors of a random part.

    Attributes:
        samples: their number.
        classes: the number of samples of each class; None where there are no class numbers.
        inputs: by name.
        rows: see :class:`Row`.
        distinct: how many are repeated.
        refused: why the model does not take the samples; empty where it does.
    """

    def __init__(self, kept: int, layout: Layout | None) -> None:
        self.samples = 0
        self.classes: Counter[int] | None = Counter()
        self.inputs: dict[str, SeenInput] = {}
        self.rows = Reservoir(kept)
        self.distinct = Distinct()
        self.refused = ""
        self._layout = layout

    @classmethod
    def of(cls, samples: Any, labels: Any, model: Any, layout: Layout | None, what: str, kept: int) -> Seen:
        """Read samples, and return what was seen. Raises DataError as :func:`qat.analysis.checks.reading.batches` does."""
        found = cls(kept, layout)
        for batch in batches(samples, labels, model, what):
            found.add(batch)
        return found

    def add(self, batch: Batch) -> None:
        """Add a batch."""
        arrays = list(batch.inputs.values())
        count = len(arrays[0])
        described = [self._add_input(name, x) for name, x in batch.inputs.items()]
        classes = self._add_classes(batch.labels)
        features = self._features(batch, count)
        self.distinct.add(arrays)
        for i in range(count):
            label = None if classes is None else int(classes[i])
            self.rows.add(Row(label, tuple(d[i] for d in described), None if features is None else features[i]))
        self.samples += count

    def _add_input(self, name: str, x: np.ndarray) -> np.ndarray:
        kind = InputKind.of(x, self._layout)
        found = Moments.of(kind.by_channel(x))
        if name not in self.inputs:
            self.inputs[name] = SeenInput(kind, x.shape[1:], x.dtype, found)
        else:
            self.inputs[name].moments.add(found)
        seen, flat = self.inputs[name], x.reshape(len(x), -1)
        if found.not_finite and seen.not_finite is None:
            seen.not_finite = self.samples + int(np.flatnonzero(~np.isfinite(flat).all(1))[0])
        if flat.shape[1]:
            seen.records.add(flat.min(1), flat.max(1))
        if kind.kind in ("images", "signals"):
            planes = kind.planes(x)
            seen.whiteness.add(planes if found.not_finite == 0 else planes[np.isfinite(flat).all(1)])
        return describe(x, seen.kind)

    def _add_classes(self, labels: np.ndarray | None) -> np.ndarray | None:
        """Count class numbers, also as a column or one-hot rows; after labels that are none, classes are not known."""
        numbers = None if labels is None else _class_numbers(labels)
        if numbers is None:
            self.classes = None
        elif self.classes is not None:
            self.classes.update(numbers.tolist())
        return numbers

    def _features(self, batch: Batch, count: int) -> np.ndarray | None:
        """Return the model's outputs as features ``[n, d]``: those that are one row a sample, of others their moments.

        Outputs whose samples are not first, such as a recurrent state, are left out.
        """
        if batch.model is None or self.refused:
            return None
        adapter = adapter_for(framework_of(batch.model))
        try:
            outputs = adapter.predict(batch.model, *batch.given)
        except Exception as error:  # whatever the user's model raises
            self.refused = reason_of(error)
            return None
        finite = [np.nan_to_num(np.asarray(out, np.float64)) for out in outputs if out.shape[:1] == (count,)]
        return np.column_stack([projected(out) if out.ndim == 2 else moments(out) for out in finite]) if finite else None


def _class_numbers(labels: np.ndarray) -> np.ndarray | None:
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.size:
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()
        return labels.argmax(1) if one_hot else None
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return flat if flat.ndim == 1 and np.issubdtype(flat.dtype, np.integer) else None

"""Both sides of a comparison: the samples that calibrate, the reference, and how likely they are of one distribution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .seen import Row, Seen
from .two_sample import joint_p

#: How often a two-sample check may warn of samples that are like the reference: once in ten thousand sets.
ALPHA = 1e-4
#: Fewer samples than these on a side are not compared.
FEWEST = 50
#: Classes are held apart where each has, on average, so many samples; else all samples are compared as one set.
_A_CLASS = 10


@dataclass(frozen=True)
class Sides:
    """What was seen of the samples that calibrate, and of the reference; None without one."""

    samples: Seen
    reference: Seen | None

    @cached_property
    def why_not(self) -> str:
        """Why the two are not compared; empty where they are."""
        if self.reference is None:
            return "there is no reference"
        fewest = min(map(len, self.rows))
        return f"{fewest} samples of the same classes are too few to compare" if fewest < FEWEST else ""

    @cached_property
    def rows(self) -> tuple[list[Row], list[Row]]:
        """The samples that are compared. Where classes are known, both sides have each in the same share.

        A calibration set may hold the classes in other shares than the reference without anything being wrong with it.
        """
        assert self.reference is not None
        mine, theirs = self.samples.rows.kept, self.reference.rows.kept
        classes = {row.label for row in mine}
        if None in classes or any(row.label is None for row in theirs) or len(classes) * _A_CLASS > len(mine):
            return mine, theirs
        a, b = _by_class(mine), _by_class(theirs)
        times = min(len(b[label]) / len(a[label]) for label in classes)
        if times >= 1:
            return mine, [row for label in classes for row in b[label][: int(times * len(a[label]))]]
        counts = {label: min(len(a[label]), len(b[label])) for label in classes}
        same = ([row for label, count in counts.items() for row in side[label][:count]] for side in (a, b))
        return next(same), next(same)

    def descriptors(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the descriptors of an input on both sides; None where they are of different kinds."""
        assert self.reference is not None
        if name not in self.reference.inputs:
            return None
        places = [list(seen.inputs).index(name) for seen in (self.samples, self.reference)]
        a, b = (np.stack([row.inputs[i] for row in rows]) for rows, i in zip(self.rows, places, strict=True))
        return (a, b) if a.shape[1] == b.shape[1] else None

    @cached_property
    def p_of_inputs(self) -> dict[str, float]:
        """The p-value of each input that it is distributed as the reference's, times the number of inputs."""
        found = {name: self.descriptors(name) for name in self.samples.inputs}
        pairs = {name: pair for name, pair in found.items() if pair is not None}
        return {name: min(1.0, len(pairs) * joint_p(*pair)) for name, pair in pairs.items()}

    @cached_property
    def p_of_features(self) -> float | None:
        """The p-value of the model's features; None without a model."""
        mine, theirs = ([row.features for row in rows] for rows in self.rows)
        a, b = ([x for x in side if x is not None] for side in (mine, theirs))
        if len(a) != len(mine) or len(b) != len(theirs) or a[0].shape != b[0].shape:
            return None
        return joint_p(np.stack(a), np.stack(b))


def _by_class(rows: list[Row]) -> Mapping[int | None, list[Row]]:
    found: defaultdict[int | None, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.label].append(row)
    return found

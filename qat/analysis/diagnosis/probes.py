"""Copies of a file that show what lies within it: values tapped, steps cut from each other, errors added.

- *tapped*: tensors become outputs.
- *cut*: each tensor becomes an input, and what its step computes an output of its own: every step alone, on given inputs.
- *disturbed*: an input is added to each tensor: what an error of one step does to the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from qat.system.sample_axes import Axes

from .network import Network

#: What is appended to the name of a tensor whose place an input takes, and to that of an error.
OWN, ERROR = "/own", "/error"


class Probe(Protocol):
    """A copy of a file that is ready to run.

    Attributes:
        inputs: the names of its inputs, those of the file first.
        shapes: the sizes of the inputs, None of a free one; unknown ones are empty.
        axes: of each input that which counts the samples; None of one without.
        batch: the number of samples that it takes at once; None where any does.
    """

    inputs: Sequence[str]
    shapes: Mapping[str, tuple[int | None, ...]]
    axes: Axes
    batch: int | None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name, in the file's types, for inputs in the file's types."""


class Probes(Protocol):
    """Makes the copies of one file."""

    network: Network

    def tapped(self, names: Sequence[str]) -> Probe:
        """Return the copy whose outputs are tensors and the file's outputs."""

    def cut(self, names: Sequence[str]) -> Probe:
        """Return the copy that takes tensors, and returns what their steps compute as ``<name>/own``."""

    def disturbed(self, names: Sequence[str]) -> Probe:
        """Return the copy that adds inputs ``<name>/error`` to tensors; its outputs are the file's."""

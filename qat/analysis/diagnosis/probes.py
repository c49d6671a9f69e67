"""Copies of a file that show what lies within it: values tapped, steps cut from each other, errors added.

- *tapped*: tensors become outputs.
- *cut*: each tensor becomes an input, and what its step computes an output of its own: every step alone, on given inputs.
- *disturbed*: an input is added to each tensor: what an error of one step does to the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from qat.runtimes import TFLITE, format_of

from .network import Network
from .read_onnx import read_onnx

#: What is appended to the name of a tensor whose place an input takes, and to that of an error.
OWN, ERROR = "/own", "/error"


class Probe(Protocol):
    """A copy of a file that is ready to run.

    Attributes:
        inputs: the names of its inputs, those of the file first.
        shapes: the sizes of the inputs, None of a free one; unknown ones are empty.
        batch: the number of samples that it takes at once; None where any does.
    """

    inputs: Sequence[str]
    shapes: Mapping[str, tuple[int | None, ...]]
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


def probes_of(path: Path) -> Probes:
    """Return the maker of a file's copies.

    Raises:
        DataError: the file is missing or damaged.
        QatError: the path is of no known format.
    """
    if format_of(path) is TFLITE:
        from .probes_tflite import TFLiteProbes

        return TFLiteProbes(path)
    from .probes_onnx import OnnxProbes

    return OnnxProbes(path)


def network_of(path: Path) -> Network:
    """Return the network of a file. Raises as :func:`probes_of` does."""
    if format_of(path) is TFLITE:
        from .read_tflite import read_tflite

        return read_tflite(path)
    return read_onnx(path)

"""Doubts about calibration samples that their number, classes and extremes alone give: what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import NamedTuple

import numpy as np

#: Ranges of fewer samples than these are said to rest on little.
FEW_SAMPLES = 100


class Doubt(NamedTuple):
    """A reason to distrust ranges."""

    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.found}: {self.advice}"


def counted(samples: int) -> str:
    """Return a number of samples in words."""
    return f"{samples} sample" if samples == 1 else f"{samples} samples"


def of_number(samples: int) -> Iterator[Doubt]:
    """Yield the doubt that samples are few."""
    if samples < FEW_SAMPLES:
        yield Doubt(
            f"calibration saw {counted(samples)}",
            f"fewer than {FEW_SAMPLES} may not show the values that come later; a few hundred are usual",
        )


def of_classes(classes: Set[int], samples: int) -> Iterator[Doubt]:
    """Yield the doubt that several samples are of one class."""
    if len(classes) == 1 and samples > 1:
        yield Doubt(f"every calibration sample is of class {min(classes)}", "take samples of every class")


def of_constants(name: str, low: np.ndarray, high: np.ndarray) -> Iterator[Doubt]:
    """Yield the doubt that an input, or a channel of it, is constant; ``low`` and ``high`` are the channels' extremes."""
    if low.min() == high.max():
        yield Doubt(f"every calibration value of '{name}' is {low.min():.4g}", "give samples like those that the model will meet")
        return
    constant = np.flatnonzero(low == high)
    if len(constant):
        shown = f"{constant[0]}" if len(constant) == 1 else f"{constant[0]} (and of {len(constant) - 1} more)"
        yield Doubt(
            f"channel {shown} of '{name}' holds {low[constant[0]]:.4g} in every calibration sample", "is the data read rightly?"
        )


def of_pixels(name: str, low: float, high: float, is_float: bool) -> Iterator[Doubt]:
    """Yield the doubt that pixels were scaled twice."""
    if is_float and low != high and low >= 0 and high <= 1.01 / 255:
        yield Doubt(
            f"the calibration values of '{name}' end at {high:.3g}, at most 1/255",
            "pixels look as if they were divided by 255 twice",
        )

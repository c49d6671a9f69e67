"""Checks of the values of each input: finite, of a usual type, varying, real rather than noise, and of a settled range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats

from qat.calibration import doubts

from .result import Status
from .seen import SeenInput
from .sides import ALPHA, Sides
from .two_sample import independence_p
from .verdict import Verdict, of_input, worst_of

#: A range that grew by more than this share in the last quarter of the samples is expected to grow further.
_GROWTH = 0.25
#: Samples whose last quarter is smaller than this say nothing about growth.
_LEAST_QUARTER = 2
#: How many standard deviations the correlation of white noise is from zero at most, but once in ten thousand sets.
_NOISE = float(stats.norm.isf(ALPHA))
#: An estimate of the correlation that is less exact than this says nothing.
_BLUNT = 0.25


def finite(sides: Sides) -> Verdict:
    """No value is NaN or infinite."""

    def of(name: str, seen: SeenInput) -> Verdict:
        count = seen.moments.not_finite
        if not count:
            return Verdict("passed", "all values are finite", "no NaN, no infinite value", value=0)
        return Verdict(
            "failed", f"{count:,} values{of_input(sides, name)} are NaN or infinite, the first in sample {seen.not_finite}",
            "no NaN, no infinite value", "clean the data before calibrating on it", count,
        )  # fmt: skip

    return worst_of((of(*pair) for pair in sides.samples.inputs.items()), "there are no inputs")


def dtype(sides: Sides) -> Verdict:
    """Values are of the reference's type: both floats, or both integers."""

    def of(name: str, seen: SeenInput) -> Verdict:
        reference = None if sides.reference is None else sides.reference.inputs.get(name)
        figure, wanted = (
            f"{seen.dtype}{of_input(sides, name)}",
            "" if reference is None else f"{reference.dtype}, the reference's",
        )
        if reference is not None and seen.is_float != reference.is_float:
            step = "give calibration the values that the model gets in the application"
            return Verdict("warned", f"{figure}, where the reference is {reference.dtype}", wanted, step)
        return Verdict("passed", figure, wanted)

    return worst_of((of(*pair) for pair in sides.samples.inputs.items()), "there are no inputs")


def constant(sides: Sides) -> Verdict:
    """No input is constant, no channel of an image, and no column of a table that varies in the reference.

    A column that hardly varies there may be constant in some samples by chance, which is no warning.
    """

    def of(name: str, seen: SeenInput) -> Verdict:
        low, high = seen.moments.low, seen.moments.high
        reference = None if sides.reference is None else sides.reference.inputs.get(name)
        if seen.kind.kind == "table" and not sides.why_not:
            varying = _varying(sides, name)
            low, high = np.where(varying, low, -np.inf), np.where(varying, high, np.inf)
        elif seen.kind.kind != "images":
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        elif reference is not None and reference.moments.low.shape == low.shape:
            varying = reference.moments.low < reference.moments.high
            low, high = np.where(varying, low, -np.inf), np.where(varying, high, np.inf)
        for doubt in doubts.of_constants(name, low, high):
            return Verdict("warned", doubt.found, "every channel varies", doubt.advice)
        return Verdict("passed", "every channel varies", "every channel varies")

    looked_at = ((n, s) for n, s in sides.samples.inputs.items() if s.kind.kind != "ids" and s.moments.count.any())
    return worst_of((of(*pair) for pair in looked_at), "numbers of tokens and masks may be constant")


def _varying(sides: Sides, name: str) -> np.ndarray:
    """Return which columns of a table vary so often in the reference that samples of one value are no chance."""
    pair, low = sides.descriptors(name), sides.samples.inputs[name].moments.low
    if pair is None or pair[1].shape[1] != len(low):  # a wide table, of which projections are kept
        return np.zeros(len(low), bool)
    others = (pair[1] != low).mean(0)
    return np.asarray(len(low) * (1 - others) ** sides.samples.samples < ALPHA)


def real(sides: Sides) -> Verdict:
    """Neighbouring values of images and signals correlate; so do the columns of a table, where the reference's do."""

    def verdicts() -> Iterator[Verdict]:
        for name, seen in sides.samples.inputs.items():
            if seen.kind.kind in ("images", "signals"):
                yield from _neighbours(sides, name, seen)
            elif seen.kind.kind == "table" and not sides.why_not:
                yield from _columns(sides, name)

    return worst_of(verdicts(), "no image, signal, or table with a reference")


def _neighbours(sides: Sides, name: str, seen: SeenInput) -> Iterator[Verdict]:
    """Yield the verdict on white noise, which the correlation of neighbours tells, unless the samples are too small."""
    white = seen.whiteness
    limit = _NOISE * white.deviation
    if not white.samples or limit > _BLUNT:
        return
    figure = f"neighbouring values{of_input(sides, name)} correlate by {white.mean:.3f}"
    wanted = f"more than {limit:.3f}, the most of white noise"
    reference = None if sides.reference is None else sides.reference.inputs.get(name)
    alike = reference is not None and abs(reference.whiteness.mean) <= _NOISE * reference.whiteness.deviation
    if abs(white.mean) > limit or alike:
        yield Verdict("passed", figure, wanted, value=white.mean)
    else:
        status: Status = "failed" if seen.kind.kind == "images" else "warned"
        yield Verdict(
            status, f"{figure}: they look like noise", wanted, "calibrate on real samples; random ones give useless ranges",
            white.mean,
        )  # fmt: skip


def _columns(sides: Sides, name: str) -> Iterator[Verdict]:
    """Yield the verdict on a table of independent columns where the reference's depend on each other."""
    pair = sides.descriptors(name)
    if pair is None or pair[0].shape[1] < 2:
        return
    rows = min(map(len, pair))
    if independence_p(pair[1][:rows]) >= ALPHA:
        return
    p, wanted = independence_p(pair[0][:rows]), f"p below {ALPHA:g}, as the reference's are"
    figure = f"columns{of_input(sides, name)} depend on each other (p of independence = {p:.2g})"
    if p >= ALPHA:
        step = "calibrate on real rows; random ones give useless ranges"
        figure = f"columns{of_input(sides, name)} are independent (p = {p:.2g}), the reference's are not: they look like noise"
        yield Verdict("failed", figure, wanted, step, p)
    else:
        yield Verdict("passed", figure, wanted, value=p)


def settled(sides: Sides) -> Verdict:
    """The last quarter of the samples widened no range by more than a quarter."""

    def of(name: str, seen: SeenInput) -> Verdict:
        growth = seen.records.growth()
        figure = f"the last quarter of the samples widened the range{of_input(sides, name)} by {100 * growth:.3g} %"
        if growth > _GROWTH:
            return Verdict("warned", figure, "at most 25 %", "take more samples, in random order", growth)
        return Verdict("passed", figure, "at most 25 %", value=growth)

    if sides.samples.samples // 4 < _LEAST_QUARTER:
        return Verdict("not applicable", f"{doubts.counted(sides.samples.samples)}: too few to see a range grow")
    inputs = sides.samples.inputs.items()
    return worst_of((of(name, seen) for name, seen in inputs if seen.kind.kind != "ids"), "numbers of tokens have no range")

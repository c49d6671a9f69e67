"""Checks of the samples as a set: their number, their classes, and how many are repeated."""

from __future__ import annotations

from scipy import stats

from qat.calibration import doubts

from .sides import ALPHA, Sides
from .verdict import Verdict

#: The share of repeated samples that is worth a warning; in a reference that repeats itself, twice the reference's.
_REPEATED = 0.05
#: A class with less than this share of its share in the reference hardly shows its values.
_SCARCE = 0.1
#: With more different labels than these, and than half of the samples, integers are quantities rather than classes.
_FEW_CLASSES = 50
_NAMED = 5


def number(sides: Sides) -> Verdict:
    """Ranges rest on at least 100 samples."""
    count = sides.samples.samples
    wanted = f"at least {doubts.FEW_SAMPLES}; 500 to 1,000 are recommended"
    for doubt in doubts.of_number(count):
        return Verdict("failed", doubt.found, wanted, doubt.advice, count)
    return Verdict("passed", f"{count:,} samples", wanted, value=count)


def classes(sides: Sides) -> Verdict:
    """Every class of the reference is there, none with less than a tenth of its share that chance does not explain."""
    found, samples = sides.samples.classes, sides.samples.samples
    if not found:
        return Verdict("not applicable", "there are no class numbers")
    if len(found) > max(_FEW_CLASSES, samples / 2):
        return Verdict("not applicable", f"{len(found)} different labels are quantities rather than classes")
    known = (sides.reference.classes if sides.reference is not None else None) or found
    for doubt in doubts.of_classes(set(found), samples):
        if len(known) > 1 or known is found:
            return Verdict("failed", doubt.found, "more than one class", doubt.advice, 1)
    total = sum(known.values())
    shares = {label: count / total for label, count in known.items()}
    scarce = [
        label
        for label, share in sorted(shares.items())
        if found[label] < _SCARCE * share * samples
        and len(shares) * stats.binom.cdf(found[label], samples, share) < ALPHA
    ]  # fmt: skip
    there = f"{len(found)} classes, {_percent(min(found.values()) / samples)} to {_percent(max(found.values()) / samples)} each"
    wanted = "every class of the reference, with a tenth of its share there"
    if scarce:
        shown = ", ".join(map(str, scarce[:_NAMED])) + (f" and {len(scarce) - _NAMED} more" if len(scarce) > _NAMED else "")
        lacking = "has" if len(scarce) == 1 else "have"
        few = "no" if not any(found[label] for label in scarce) else "hardly a"
        return Verdict(
            "warned", f"class {shown} {lacking} {few} sample among {samples:,} for calibration", wanted,
            "draw calibration samples from every class", len(found),
        )  # fmt: skip
    return Verdict("passed", there, wanted if known is not found else "", value=len(found))


def duplicates(sides: Sides) -> Verdict:
    """Samples are not repeated."""
    seen, reference = sides.samples, sides.reference
    rows = all(found.kind.kind in ("table", "ids", "values") for found in seen.inputs.values())
    if rows and reference is None:
        return Verdict("not applicable", "rows of a table may be equal, and there is no reference")
    limit = max(_REPEATED, 0.0 if reference is None else 2 * reference.distinct.share)
    figure = f"{seen.distinct.repeated} of {seen.distinct.looked_at:,} samples repeat an earlier one"
    wanted = f"at most {_percent(limit)}"
    if seen.distinct.share > limit:
        return Verdict("warned", figure, wanted, "leave repeated samples out: they add nothing", seen.distinct.share)
    return Verdict("passed", figure, wanted, value=seen.distinct.share)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

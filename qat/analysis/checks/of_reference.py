"""Checks against the reference: preprocessing equal to inference's, and no augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from qat.calibration import doubts

from .seen import SeenInput
from .sides import ALPHA, Sides
from .two_sample import joint_p, squared_distance
from .verdict import Verdict, of_input, worst_of

#: Spreads that differ by this factor differ by another scale, whatever the samples.
_OTHER_SCALE = 50.0
#: Means that differ by more than this share of the deviation, or deviations by this factor, come of another normalization.
_SHIFT, _STRETCH = 0.5, 1.5
#: The forms in which pixels come: name, lowest and highest value.
_FORMS = (("0..1", 0.0, 1.01), ("0..255", 0.0, 255.5), ("-1..1", -1.01, 1.01))
#: The numbers that describe a channel of an image or signal.
_OF_CHANNEL = 4


def model(sides: Sides) -> Verdict:
    """The float model takes the samples."""
    for what, seen in (("samples", sides.samples), ("reference", sides.reference)):
        if seen is not None and seen.refused:
            step = "give the inputs that the model takes, in its layout"
            return Verdict("failed", f"the model does not take the {what}: {seen.refused}", "the model runs on them", step)
    if sides.samples.rows.kept[0].features is None:
        return Verdict("not applicable", "there is no float model with weights")
    return Verdict("passed", "the float model runs on the samples", "the model runs on them")


def preprocessing(sides: Sides) -> Verdict:
    """Values lie in the reference's layout, range and scale, their channels in its order."""

    def verdicts() -> Iterator[Verdict]:
        for name, seen in sides.samples.inputs.items():
            low, high = seen.limits
            for doubt in doubts.of_pixels(name, low, high, seen.is_float):
                yield Verdict("failed", doubt.found, "pixels up to 1 or 255", f"{doubt.advice}; do so once", high)
            other = None if sides.reference is None else sides.reference.inputs.get(name)
            if other is None or seen.kind.kind == "ids":
                continue
            yield next(_differences(sides, name, seen, other), Verdict("passed", _described(seen), _described(other)))

    without = sides.why_not or "numbers of tokens have no scale"
    return worst_of(verdicts(), without)


def _described(seen: SeenInput) -> str:
    mean, std = seen.spread
    return f"values {_form(seen)}, mean {mean:.3g}, deviation {std:.3g}"


def _form(seen: SeenInput) -> str:
    low, high = seen.limits
    return next((name for name, a, b in _FORMS if a <= low and high <= b), f"{low:.3g}..{high:.3g}")


def _differences(sides: Sides, name: str, seen: SeenInput, other: SeenInput) -> Iterator[Verdict]:
    """Yield the differences in preprocessing, the most certain first."""
    where = of_input(sides, name)
    if len(seen.shape) != len(other.shape) or (seen.shape != other.shape and sorted(seen.shape) == sorted(other.shape)):
        yield Verdict(
            "failed", f"samples{where} have the shape {seen.shape}, the reference {other.shape}", "the same order of the axes",
            "transpose the calibration samples as the reference's are (NCHW or NHWC)",
        )  # fmt: skip
        return
    mine, theirs = seen.spread[1], other.spread[1]
    if min(mine, theirs) > 0 and not 1 / _OTHER_SCALE < mine / theirs < _OTHER_SCALE:
        yield Verdict(
            "failed", f"values{where} are {_form(seen)}, the reference's {_form(other)}: spread {mine / theirs:.3g} times as far",
            _described(other), "divide by 255, or do not, on both sides alike", mine / theirs,
        )  # fmt: skip
    if sides.why_not or sides.p_of_inputs.get(name, 1.0) >= ALPHA:
        return
    yield from _order(sides, name, seen)
    channels = seen.moments, other.moments
    if channels[0].mean.shape != channels[1].mean.shape:
        return
    varying = (channels[0].std > 0) & (channels[1].std > 0)
    if not varying.any():
        return
    stretch = np.abs(np.log(channels[0].std[varying] / channels[1].std[varying]))
    shift = np.abs(channels[0].mean - channels[1].mean)[varying] / channels[1].std[varying]
    if stretch.max() > np.log(_STRETCH) or shift.max() > _SHIFT:
        worst = int(np.flatnonzero(varying)[np.argmax(np.maximum(stretch / np.log(_STRETCH), shift / _SHIFT))])
        channel = f"channel {worst}{where}" if len(varying) > 1 else f"values{where}"
        a, b = ((float(m.mean[worst]), float(m.std[worst])) for m in channels)
        yield Verdict(
            "failed", f"{channel}: mean {a[0]:.3g} and deviation {a[1]:.3g}, the reference's {b[0]:.3g} and {b[1]:.3g}",
            f"means within half a deviation, deviations within a factor of {_STRETCH}",
            "normalize calibration samples as the evaluation data are, and draw both from one population", float(shift.max()),
        )  # fmt: skip


def _order(sides: Sides, name: str, seen: SeenInput) -> Iterator[Verdict]:
    """Yield the verdict on images of three channels that are nearer to the reference in another order of the channels."""
    pair = sides.descriptors(name)
    if seen.kind.kind != "images" or seen.kind.axis is None or seen.shape[seen.kind.axis - 1] != 3 or pair is None:
        return
    mine, theirs = (rows[:, : 3 * _OF_CHANNEL].reshape(len(rows), 3, _OF_CHANNEL)[:, :, :2] for rows in pair)
    flat = theirs.reshape(len(theirs), -1)
    if joint_p(mine.reshape(len(mine), -1), flat) >= ALPHA:
        return
    found = {order: squared_distance(mine[:, order].reshape(len(mine), -1), flat) for order in permutations(range(3))}
    best = min(found, key=found.__getitem__)
    if found[best] < found[0, 1, 2] / 2:
        letters = "".join("RGB"[i] for i in best)
        yield Verdict(
            "failed", f"the channels{of_input(sides, name)} look like the reference's {letters}, not RGB", "its order",
            "give calibration the channels in the order of the evaluation data (RGB or BGR)", found[best] / found[0, 1, 2],
        )  # fmt: skip


def distribution(sides: Sides) -> Verdict:
    """The samples are distributed as the reference: per-channel statistics, thumbnails, and the float model's outputs."""
    if sides.why_not:
        return Verdict("not applicable", sides.why_not)
    families = dict(sides.p_of_inputs)
    if (features := sides.p_of_features) is not None:
        families["the model's outputs"] = features
    if not families:
        return Verdict("not applicable", "samples and reference have no input in common")
    name = min(families, key=families.__getitem__)
    p = min(1.0, len(families) * families[name])
    what = name if name == "the model's outputs" else f"the values of '{name}'"
    wanted = f"p of at least {ALPHA:g}"
    if p < ALPHA:
        return Verdict(
            "warned", f"{what} are distributed otherwise than the reference's (p = {p:.2g})", wanted,
            "calibrate without augmentation (flips, crops, rotations, colour jitter), on samples like the application's", p,
        )  # fmt: skip
    return Verdict("passed", f"no difference to the reference (p = {p:.2g})", wanted, value=p)

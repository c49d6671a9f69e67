"""The labels of a detector: boxes and class numbers of each image, and what is wrong with them in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.errors import DataError

from .detection_grid import Grid, raw_of

#: How far a corner may lie outside of the image, in pixels: corners are rounded.
_ROUNDED = 1.0

#: The numbers of a label: left, top, right, bottom, class.
_FIELDS = 5


def limits_of(outputs: Any) -> tuple[int, int, int]:
    """Return the height and the width of a raw detector's images, and the number of its classes.

    Raises:
        ConfigError: the outputs are no detector's.
    """
    offsets, logits = raw_of(outputs)
    grid = Grid.of(int(offsets.shape[1]))
    return grid.height, grid.width, int(logits.shape[-1])


def check_boxes(labels: Any, height: int, width: int, classes: int | None, where: str) -> None:
    """Raise DataError unless labels are boxes ``[n, m, 5]``: left, top, right, bottom in pixels, and the class; -1 for no box.

    An image without a box has the class -1 in all of its rows.

    Args:
        labels: an array, or a tensor on the CPU.
        height: of the images.
        width: likewise.
        classes: their number; None where it is not known yet.
        where: for the message.
    """
    found = np.asarray(labels)
    if found.ndim != 3 or found.shape[1] == 0 or found.shape[-1] != _FIELDS or found.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: labels of shape {found.shape} ({found.dtype}) are no boxes: give numbers [n, boxes, 5], left, top, right, "
            "bottom in pixels and the class, which is -1 where there is no box"
        )
    numbers = found[..., 4]
    _refuse(~np.isfinite(numbers), found, where, "has no number as its class: clean the labels before training on them")
    there = numbers >= 0
    boxes = np.where(there[..., None], found[..., :4], 0).astype(np.float64)
    finite = np.asarray(np.isfinite(boxes).all(-1))
    _refuse(~finite, found, where, "holds NaN or infinite numbers: clean the labels before training on them")
    _refuse(numbers != np.round(numbers), found, where, "has no whole number as its class")
    _refuse(numbers < -1, found, where, "has a class below -1: classes count from 0, and -1 says that there is no box")
    if classes is not None:
        _refuse(numbers >= classes, found, where, f"is of no class of the model, which has {classes}: classes count from 0")
    flat = there & (boxes[..., 2:] <= boxes[..., :2]).any(-1)
    _refuse(flat, found, where, "has no size: its corners are left, top, right, bottom; leave out boxes without a pixel")
    outside = there & ((boxes[..., :2] < -_ROUNDED).any(-1) | (boxes[..., 2:] > np.array([width, height]) + _ROUNDED).any(-1))
    _refuse(outside, found, where, f"is not within the image of {width} x {height} pixels: clip it, or leave it out")


def _refuse(wrong: np.ndarray, labels: np.ndarray, where: str, why: str) -> None:
    if wrong.any():
        image, place = (int(i) for i in np.argwhere(wrong)[0])
        numbers = ", ".join(f"{value:g}" for value in labels[image, place])
        raise DataError(f"{where}: box {place} of image {image}, ({numbers}), {why}")

"""COCO's average precision of images that are matched already, each of them drawn any number of times.

pycocotools ranks all detections anew for every choice of images. A bootstrap makes thousands of choices of the same images: here
the detections are ranked once, and a choice only changes how often each of them counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: COCO's thresholds of intersection over union, and the recalls at which precision is read (``pycocotools.cocoeval.Params``).
THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(rows: np.ndarray, threshold: float | None = None) -> Callable[[np.ndarray], float]:
    """Return the function that makes mAP in percent of how often each image is drawn, ``[n]`` integers.

    The result is that of ``pycocotools.cocoeval.COCOeval.accumulate`` on the images drawn: for each class and threshold the mean,
    over 101 recalls, of the best precision at that recall or beyond it. Among equal scores the images' order decides, there too.

    Args:
        rows: of each image the matches of each class, as :func:`qat.trainers.detection_metrics.matches` returns them.
        threshold: one of :data:`THRESHOLDS`; None takes the mean over all of them.
    """
    places = [i for i, known in enumerate(THRESHOLDS) if threshold is None or np.isclose(known, threshold)]
    ranked = [_rank(rows, number, places) for number in sorted({c for row in rows for c in row})]

    def drawn(counts: np.ndarray) -> float:
        found = [values for one in ranked if (values := one.precisions(counts)) is not None]
        return 100.0 * float(np.mean(found)) if found else 0.0

    return drawn


def mean_average_precision(rows: np.ndarray, threshold: float | None = None) -> float:
    """Return :func:`average_precision` of all images, each once."""
    return average_precision(rows, threshold)(np.ones(len(rows), int))


@dataclass(frozen=True)
class _Ranked:
    """The detections of one class, surest first.

    Attributes:
        images: the image of each detection, ``[detections]``.
        counted: whether it counts at a threshold, ``[thresholds, detections]``: COCO ignores some.
        hits: of each threshold the places of the detections that found a box.
        boxes: how many boxes each image has, ``[images]``.
    """

    images: np.ndarray
    counted: np.ndarray
    hits: tuple[np.ndarray, ...]
    boxes: np.ndarray

    def precisions(self, counts: np.ndarray) -> np.ndarray | None:
        """Return the precision at each threshold and recall; None where the images drawn have no box of the class."""
        boxes = int(counts @ self.boxes)
        if not boxes:
            return None
        times = counts[self.images]
        seen = np.cumsum(times * self.counted, axis=1)
        found = np.zeros((len(self.hits), len(_RECALLS)))
        for values, hits, reached in zip(found, self.hits, seen, strict=True):
            right = np.cumsum(times[hits])
            best = np.maximum.accumulate((right / (reached[hits] + np.spacing(1)))[::-1])[::-1]
            at = np.searchsorted(right / boxes, _RECALLS, side="left")
            values[at < len(best)] = best[at[at < len(best)]]
        return found


def _rank(rows: np.ndarray, number: int, places: list[int]) -> _Ranked:
    found: list[tuple[int, Any]] = [(i, row[number]) for i, row in enumerate(rows) if row.get(number) is not None]
    boxes = np.zeros(len(rows), int)
    for image, match in found:
        boxes[image] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
    scores = np.concatenate([np.asarray(match["dtScores"], float) for _, match in found] or [np.zeros(0)])
    order = np.argsort(-scores, kind="mergesort")  # pycocotools' own: equal scores keep the images' order
    images = np.repeat([image for image, _ in found], [len(match["dtScores"]) for _, match in found]).astype(int)[order]
    counted, hit = (
        np.concatenate([np.asarray(match[name])[places] != 0 for _, match in found] or [np.zeros((len(places), 0))], 1)[:, order]
        for name in ("dtIgnore", "dtMatches")
    )
    counted = ~counted.astype(bool)
    return _Ranked(images, counted, tuple(np.flatnonzero(h) for h in hit.astype(bool) & counted), boxes)

"""Which samples train, validate and calibrate: by a seed, every class in its share, however the data are sorted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: With more different labels than these, and than half of the samples, integers are quantities rather than classes.
_FEW_CLASSES = 50


def mixed_order(labels: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Return the indices of ``count`` samples in an order of which every beginning holds each class in its share.

    Each class is shuffled; then sample ``i`` of the ``n`` of a class stands at ``(i + 1/2) / n`` of the order. Unlike
    scikit-learn's stratified splits this takes classes of a single sample, and beginnings shorter than the number of classes.

    Args:
        labels: one integer a sample; other labels, or None, give a shuffled order.
        count: the number of samples.
        seed: the order depends on it and on the labels alone.
    """
    order = np.random.default_rng(seed).permutation(count)
    if labels is None or not holds_classes(labels):
        return order
    _, classes, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    rank = np.empty(count)
    rank[by_class] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.argsort((rank + 0.5) / sizes[classes], kind="stable")]


def holds_classes(labels: np.ndarray) -> bool:
    """Return whether labels are class numbers: one integer a sample."""
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def missing_classes(parts: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> list[str]:
    """Return one sentence for each part of the data that lacks a class which another part has.

    What calibration lacks is not said here: the checks of calibration data say it.

    Args:
        parts: the labels of each part, by its name.
        names: the classes' names, where they have any.
    """
    if not parts or not all(map(holds_classes, parts.values())):
        return []
    everything = np.concatenate(list(parts.values()))
    classes = np.unique(everything)
    if len(classes) > max(_FEW_CLASSES, len(everything) / 2):
        return []
    sentences = []
    for part, labels in parts.items():
        if part == "calibration":
            continue
        lacking = [int(c) for c in np.setdiff1d(classes, labels)]
        if lacking:
            shown = ", ".join(f"{c} ('{names[c]}')" if c < len(names) else str(c) for c in lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            few = len(lacking) == 1
            sentences.append(
                f"{'class' if few else 'classes'} {shown}{more} {'has' if few else 'have'} no sample in the {part} data "
                f"({len(labels)} samples)"
            )
    return sentences

"""Metrics of recognized text: CTC's greedy reading of scores, held against the labels' text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Class numbers of a text, or its characters.
_Text = tuple[object, ...]


def character_accuracy(
    outputs: np.ndarray, labels: np.ndarray, *, blank: int = 0, alphabet: str | Sequence[str] | None = None
) -> np.ndarray:
    """Return for each sample one less its edits per character of its label, at least 0, in percent.

    Args:
        outputs: scores ``[n, length, classes]``, of which CTC reads the largest of each place, once where it repeats.
        labels: class numbers ``[n, length]``, with -1 or the blank behind their end; texts ``[n]``; or scores, as outputs.
        blank: the class that is no character; -1: the last one.
        alphabet: the characters of the other classes, in order; needed where labels are texts.
    """
    pairs = _pairs(outputs, labels, blank, alphabet)
    return np.array([100.0 * max(0.0, 1.0 - _edits(read, wanted) / max(len(wanted), 1)) for read, wanted in pairs])


def string_accuracy(
    outputs: np.ndarray, labels: np.ndarray, *, blank: int = 0, alphabet: str | Sequence[str] | None = None
) -> np.ndarray:
    """Return whether each sample is read without a mistake, in percent; see :func:`character_accuracy` for the arguments."""
    return np.array([100.0 * (read == wanted) for read, wanted in _pairs(outputs, labels, blank, alphabet)])


def _pairs(
    outputs: np.ndarray, labels: np.ndarray, blank: int, alphabet: str | Sequence[str] | None
) -> list[tuple[_Text, _Text]]:
    """Return what is read of each sample, and what is written there. Raises ValueError."""
    if outputs.ndim != 3:
        raise ValueError(f"scores [n, length, classes] are expected, found {outputs.shape}")
    classes = outputs.shape[-1]
    none = blank % classes
    if alphabet is not None and len(alphabet) != classes - 1:
        raise ValueError(f"the alphabet has {len(alphabet)} characters, and the model {classes} classes, the blank among them")
    texts = labels.dtype.kind in "UO"
    if texts and alphabet is None:
        raise ValueError("labels are texts: give the alphabet of the classes (metrics: [{name: ..., alphabet: ...}])")
    read = [_greedy(numbers, none) for numbers in outputs.argmax(-1)]
    if texts:
        assert alphabet is not None
        characters = {c: alphabet[c - (c > none)] for c in range(classes) if c != none}
        return [(tuple(characters[c] for c in row), tuple(str(text))) for row, text in zip(read, labels, strict=True)]
    if labels.shape == outputs.shape:
        return list(zip(map(tuple, read), (tuple(_greedy(row, none)) for row in labels.argmax(-1)), strict=True))
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels {labels.dtype} of shape {labels.shape} are neither class numbers [n, length] nor texts [n]")
    wanted = (tuple(int(c) for c in row if c not in (none, -1)) for row in labels)
    return list(zip(map(tuple, read), wanted, strict=True))


def _greedy(numbers: np.ndarray, blank: int) -> list[int]:
    """Return a path of classes without repetitions, and then without blanks (Graves et al. 2006, section 3.2)."""
    kept = np.append(True, numbers[1:] != numbers[:-1]) & (numbers != blank)
    return [int(n) for n in numbers[kept]]


def _edits(a: _Text, b: _Text) -> int:
    """Return the least number of insertions, deletions and replacements that make ``b`` of ``a`` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]

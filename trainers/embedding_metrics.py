"""Metrics of embeddings: each sample looks for others of its class among all samples, by the cosine of their outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qat.errors import MissingDependencyError

#: Samples that are held against all others at once: the memory of their cosines is bounded.
_ROWS = 512


def cosine(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's cosine between its outputs and its labels, which are embeddings too."""
    if outputs.shape != labels.shape:
        raise ValueError(f"labels of shape {labels.shape} are not of the outputs' shape {outputs.shape}")
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (outputs, labels))
    return np.asarray((_unit(a) * _unit(b)).sum(1))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def embeddings(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's embedding of length 1, and its class number behind it: ``[n, size + 1]``."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(outputs):
        raise ValueError(f"labels {labels.dtype} of shape {labels.shape} are no class numbers, one a sample")
    return np.concatenate([_unit(outputs.reshape(len(outputs), -1).astype(np.float64)), labels[:, None]], 1)


def recall_at(k: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that says of each sample whether one of its ``k`` nearest is of its class, in percent.

    It takes :func:`embeddings` of all samples; those that are alone in their class are left out.
    """

    def found(near: np.ndarray, relevant: np.ndarray) -> float:
        best = np.argsort(-near, kind="stable")[:k]
        return 100.0 * bool(relevant[best].any())

    return lambda rows: _of_each(rows, found)


def average_precisions(rows: np.ndarray) -> np.ndarray:
    """Return each sample's average precision in percent, by scikit-learn, of :func:`embeddings` of all samples."""
    try:
        from sklearn.metrics import average_precision_score
    except ImportError as error:
        raise MissingDependencyError("retrieval_map is scikit-learn's: pip install 'qat-toolkit[report]'") from error
    return _of_each(rows, lambda near, relevant: 100.0 * float(average_precision_score(relevant, near)))


def _of_each(rows: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    """Return the score of each sample that has others of its class, by its cosines with all others and which are of its class."""
    units, classes = rows[:, :-1], rows[:, -1]
    everyone, values = np.arange(len(rows)), []
    for start in range(0, len(rows), _ROWS):
        for index, near in enumerate(units[start : start + _ROWS] @ units.T, start):
            others = everyone != index
            relevant = (classes == classes[index])[others]
            if relevant.any():
                values.append(score(near[others], relevant))
    if not values:
        raise ValueError("every sample is alone in its class: retrieval needs two or more of one")
    return np.array(values)

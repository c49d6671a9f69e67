"""Data of a few kinds of task, made of scikit-learn's digits: tiny, and learned in seconds."""

import numpy as np
from sklearn.datasets import load_digits

from qat.runs.dataset import Dataset


def _digits(n):
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))[:n]
    return (found.images[order, ..., None] / 16).astype(np.float32), found.target[order].astype(np.int64)


def _split(name, x, y):
    cut = len(x) * 2 // 3
    return Dataset(name, x[:cut], y[:cut], x[cut:], y[cut:])


def maps(n=150):
    x, _ = _digits(n)
    x = x.repeat(2, 1).repeat(2, 2)
    return _split("ink", x, (x[..., 0] > 0.3).astype(np.int64) + (x[..., 0] > 0.7))


def numbers(n=150):
    x, _ = _digits(n)
    grid = np.arange(8, dtype=np.float32)
    ink = x[..., 0].sum((1, 2))
    return _split("middle", x, np.stack([(x[..., 0].sum(1) @ grid) / ink, (x[..., 0].sum(2) @ grid) / ink], 1))


def classes(n=300):
    return _split("digits", *_digits(n))


def scenes(n=150):
    """One or two digits in the four cells of an image of 16 pixels; labels are boxes and classes (odd, even), -1 for none."""
    x, y = _digits(2 * n)
    random = np.random.default_rng(1)
    images, labels = np.zeros((n, 16, 16, 1), np.float32), np.full((n, 2, 5), -1, np.float32)
    for i in range(n):
        for k, cell in enumerate(random.permutation(4)[: 1 + i % 2]):
            top, left = 8 * (cell // 2), 8 * (cell % 2)
            images[i, top : top + 8, left : left + 8] = x[2 * i + k]
            labels[i, k] = (left + 1, top, left + 7, top + 8, y[2 * i + k] % 2)
    return _split("scenes", images, labels)

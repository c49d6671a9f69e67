"""Descriptors: a few dozen numbers of each sample, whose distribution two-sample tests compare.

They do not depend on the sizes of a sample, so that lines of text of any width have the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .kinds import InputKind, Kind

#: The rows and columns of a thumbnail.
_THUMBNAIL = 8
#: More numbers of a sample than these are projected on so many random directions.
MOST = 64
#: More channels than these are described together.
_MOST_CHANNELS = 4
#: The buckets that numbers of tokens fall into.
_BUCKETS = 32


def describe(x: np.ndarray, kind: InputKind) -> np.ndarray:
    """Return the descriptors of a batch, ``[n, descriptors]`` in float64; values that are not finite count as zero."""
    clean = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) if np.issubdtype(x.dtype, np.floating) else x
    return _BY_KIND[kind.kind](clean, kind).astype(np.float64)


def projected(rows: np.ndarray) -> np.ndarray:
    """Return rows of at most :data:`MOST` numbers: wider ones on fixed random directions (Johnson & Lindenstrauss 1984)."""
    width = rows.shape[1]
    if width <= MOST:
        return rows
    return rows @ np.random.default_rng(width).normal(size=(width, MOST)) / np.sqrt(MOST)


def moments(rows: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation, lowest and highest value of each row ``[n, ...]``."""
    flat = rows.reshape(len(rows), -1)
    return np.stack([flat.mean(1), flat.std(1), flat.min(1), flat.max(1)], 1)


def autocorrelation(planes: np.ndarray) -> np.ndarray:
    """Return the correlation of neighbouring values of each sample ``[n, channels, height, width]``, over rows and columns.

    It is near zero for white noise, and near one for photographs. A constant sample has none: NaN.
    """
    x = planes - planes.mean((2, 3), keepdims=True)
    found, pairs = np.zeros(len(x)), 0
    for a, b in ((x[..., 1:], x[..., :-1]), (x[:, :, 1:], x[:, :, :-1])):
        found += (a * b).sum((1, 2, 3))
        pairs += a[0].size
    variance = (x**2).mean((1, 2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > 0, found / max(pairs, 1) / variance, np.nan)


def _planes(x: np.ndarray, kind: InputKind) -> np.ndarray:
    """Return the descriptors of images or signals: of channels, of shape, of colour, and a thumbnail."""
    planes = kind.planes(x)
    if planes.shape[1] > _MOST_CHANNELS:
        channels = moments(planes)
    else:
        channels = np.concatenate([moments(planes[:, c]) for c in range(planes.shape[1])], 1)
    gray = planes.mean(1)
    spread = planes.std(1).mean((1, 2))
    return np.column_stack([channels, spread, _shape(gray, planes), _thumbnail(gray).reshape(len(x), -1)])


def _shape(gray: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Return what geometry and sharpness change: centres of mass, slopes and their direction, curvature, limits, the border."""
    height, width = gray.shape[1:]
    low, high = gray.min((1, 2), keepdims=True), gray.max((1, 2), keepdims=True)
    mass = gray - low
    total = np.maximum(mass.sum((1, 2)), 1e-12)
    y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    columns, rows = mass.sum(1) / total[:, None], mass.sum(2) / total[:, None]
    centre_x, centre_y = columns @ x, rows @ y
    dx = np.diff(gray, axis=2, append=gray[:, :, -1:])
    dy = np.diff(gray, axis=1, append=gray[:, -1:])
    variance = np.maximum(gray.var((1, 2)), 1e-12)
    slope_x, slope_y = (dx**2).mean((1, 2)), (dy**2).mean((1, 2))
    curvature = ((np.diff(dx, axis=2, prepend=0) + np.diff(dy, axis=1, prepend=0)) ** 2).mean((1, 2))
    border = (gray[:, 0].mean(1) + gray[:, -1].mean(1) + gray[:, :, 0].mean(1) + gray[:, :, -1].mean(1)) / 4
    return np.column_stack([
        centre_x, centre_y, columns @ x**2 - centre_x**2, rows @ y**2 - centre_y**2, columns @ x**3, rows @ y**3,
        slope_x / variance, slope_y / variance, (dx * dy).mean((1, 2)) / np.maximum(slope_x + slope_y, 1e-12),
        curvature / variance, (gray == low).mean((1, 2)), (gray == high).mean((1, 2)), border - gray.mean((1, 2)),
        np.nan_to_num(autocorrelation(planes)),
    ])  # fmt: skip


def _thumbnail(gray: np.ndarray) -> np.ndarray:
    """Return images ``[n, height, width]`` as means over at most 8 x 8 fields."""
    for axis in (1, 2):
        size = gray.shape[axis]
        starts = np.arange(_THUMBNAIL) * size // _THUMBNAIL
        lengths = np.maximum(np.diff(starts, append=size), 1)
        shape = [-1 if i == axis else 1 for i in range(3)]
        gray = np.add.reduceat(gray, starts, axis) / lengths.reshape(shape)
    return gray


def _table(x: np.ndarray, kind: InputKind) -> np.ndarray:
    return projected(x.reshape(len(x), -1).astype(np.float64))


def _ids(x: np.ndarray, kind: InputKind) -> np.ndarray:
    """Return the shares of the numbers by their remainder, the length without the padding, and the largest number."""
    flat = x.reshape(len(x), -1)
    shares = np.stack([(flat % _BUCKETS == i).mean(1) for i in range(_BUCKETS)], 1)
    return np.column_stack([shares, (flat != 0).sum(1), flat.max(1)])


def _values(x: np.ndarray, kind: InputKind) -> np.ndarray:
    return moments(x.astype(np.float64))


_BY_KIND: Mapping[Kind, Callable[[np.ndarray, InputKind], np.ndarray]] = {
    "images": _planes, "signals": _planes, "table": _table, "ids": _ids, "values": _values,
}  # fmt: skip

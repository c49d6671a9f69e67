"""What the samples of an input are: images, signals, rows of a table, numbers of tokens, or other values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qat.typing import Layout

Kind = Literal["images", "signals", "table", "ids", "values"]

#: The numbers of channels that tell an image's axis of channels from its height and width.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class InputKind:
    """The kind of an input's samples, and the axis of their channels, counted with the batch's; None without channels."""

    kind: Kind
    axis: int | None = None

    @classmethod
    def of(cls, x: np.ndarray, layout: Layout | None) -> InputKind:
        """Return the kind of a batch.

        Args:
            x: the batch ``[n, ...]``.
            layout: of images; None: channels lie on the axis that has one, three or four of them, else on the smaller one.
        """
        if np.issubdtype(x.dtype, np.integer) and x.ndim <= 2:
            return cls("ids")
        if x.ndim <= 2:
            return cls("table", 1 if x.ndim == 2 else None)
        if x.ndim == 4:
            return cls("images", _image_axis(x.shape, layout))
        if x.ndim == 3:
            return cls("signals", 1 if x.shape[1] < x.shape[2] else 2)
        return cls("values")

    def planes(self, x: np.ndarray) -> np.ndarray:
        """Return images or signals as ``[n, channels, height, width]``, float32; the height of a signal is 1."""
        assert self.axis is not None
        moved = np.ascontiguousarray(np.moveaxis(x, self.axis, 1), np.float32)
        return moved if moved.ndim == 4 else moved[:, :, None]

    def by_channel(self, x: np.ndarray) -> np.ndarray:
        """Return the values as ``[channels, n]``."""
        if self.axis is None:
            return x.reshape(1, -1)
        return np.moveaxis(x, self.axis, 0).reshape(x.shape[self.axis], -1)


def _image_axis(shape: tuple[int, ...], layout: Layout | None) -> int:
    if layout is not None:
        return 1 if layout == "NCHW" else 3
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first != last:
        return 1 if first else 3
    return 1 if shape[1] < shape[3] else 3

"""The windows of a layer's input that each of its outputs reads, as views."""

from __future__ import annotations

import numpy as np

from .graph import Op
from .kinds import KINDS

Sides = tuple[tuple[int, int], ...]


def has_windows(op: Op) -> bool:
    """Whether :func:`windows` knows an operator: a layer that is linear and reads images, or rows of features."""
    kind = KINDS[op.kind]
    return kind.linear and kind.spatial in (0, 2)


def windows(op: Op, x: np.ndarray, kernel: tuple[int, ...], layout: str) -> np.ndarray:
    """Return ``[*positions, channels, *kernel]``: the window of the input that each position of a layer's output reads.

    The positions are the batch and the image, or the axes before a dense layer's last. Zeros stand for padding. Mostly a view.

    Args:
        op: one that :func:`has_windows`.
        x: the layer's input in the framework's layout.
        kernel: (height, width), () of a dense layer.
        layout: ``NCHW`` or ``NHWC``.
    """
    kind = KINDS[op.kind]
    if not kind.spatial:
        return x
    x = x if layout == "NCHW" else np.moveaxis(x, -1, 1)
    if kind.transposed:
        found = _of_transposed(x, kernel, op.attrs["strides"], op.attrs["padding"])
    else:
        found = _of_image(x, kernel, op.attrs["strides"], op.attrs["padding"], op.attrs["dilations"])
    return np.moveaxis(found, 1, 3)


def _of_image(
    x: np.ndarray,
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    padding: Sides,
    dilations: tuple[int, int],
) -> np.ndarray:
    """Return ``[batch, channels, height, width, *kernel]``."""
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    found = np.lib.stride_tricks.sliding_window_view(x, spans, (2, 3))
    return found[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _of_transposed(x: np.ndarray, kernel: tuple[int, ...], strides: tuple[int, int], cut: Sides) -> np.ndarray:
    """Return the same of a transposed convolution: with zeros between its elements the input is convolved, taps turned round."""
    n, channels, height, width = x.shape
    spread = np.zeros((n, channels, strides[0] * (height - 1) + 1, strides[1] * (width - 1) + 1), x.dtype)
    spread[:, :, :: strides[0], :: strides[1]] = x
    around = tuple((k - 1, k - 1 - min(end, 0)) for k, (_, end) in zip(kernel, cut, strict=True))
    full = _of_image(spread, kernel, (1, 1), around, (1, 1))
    (top, bottom), (left, right) = cut
    full = full[:, :, top : full.shape[2] - max(bottom, 0), left : full.shape[3] - max(right, 0)]
    return full[..., ::-1, ::-1]

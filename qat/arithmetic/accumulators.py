"""Exact accumulators and windows: the part of an operator that every runtime computes alike, in NumPy.

Tensors are on the integer grid: ``q - zero_point``, as int64 or integer-valued floats.
"""

from __future__ import annotations

import numpy as np

from .grid import f32


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilations: tuple[int, int],
    groups: int,
) -> np.ndarray:
    """Return the exact int64 accumulator of a convolution; ``x`` [n, c, h, w], ``weight`` [out, in / groups, kh, kw]."""
    # float64 holds every product and sum below 2^53 exactly, and has a fast matrix product where int64 has none.
    acc = np.rint(real_conv2d(x, weight, strides, padding, dilations, groups)).astype(np.int64)
    return acc if bias is None else acc + np.asarray(bias, np.int64).reshape(1, -1, 1, 1)


def real_conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilations: tuple[int, int],
    groups: int,
) -> np.ndarray:
    """Return a convolution of real values in float64, laid as those of :func:`conv2d`."""
    x, w = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), *padding)), np.asarray(weight, np.float64)
    out, per_group, kh, kw = w.shape
    window = ((kh - 1) * dilations[0] + 1, (kw - 1) * dilations[1] + 1)
    patches = np.lib.stride_tricks.sliding_window_view(x, window, (2, 3))
    patches = patches[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    n, _, oh, ow = patches.shape[:4]
    patches = patches.reshape(n, groups, per_group, oh, ow, kh, kw)
    w = w.reshape(groups, out // groups, per_group, kh, kw)
    y: np.ndarray = np.einsum("ngchwij,gocij->ngohw", patches, w, optimize=True).reshape(n, out, oh, ow)
    return y


def conv3d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    strides: tuple[int, int, int],
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    dilations: tuple[int, int, int],
    groups: int,
) -> np.ndarray:
    """Return the exact int64 accumulator of a convolution of volumes; ``x`` [n, c, d, h, w], ``weight`` [out, in / groups, ...].

    It is the sum of a convolution of images for each place of the filter's depth.
    """
    x = np.pad(np.asarray(x, np.int64), ((0, 0), (0, 0), padding[0], (0, 0), (0, 0)))
    kernel = weight.shape[2]
    depth = (x.shape[2] - (kernel - 1) * dilations[0] - 1) // strides[0] + 1
    total = np.zeros((), np.int64)
    for place in range(kernel):
        first = place * dilations[0]
        slices = x[:, :, first : first + (depth - 1) * strides[0] + 1 : strides[0]].swapaxes(1, 2)
        images = slices.reshape(-1, *slices.shape[2:])
        acc = conv2d(images, weight[:, :, place], None, strides[1:], padding[1:], dilations[1:], groups)
        total = total + acc.reshape(len(x), depth, *acc.shape[1:]).swapaxes(1, 2)
    return total if bias is None else total + np.asarray(bias, np.int64).reshape(1, -1, 1, 1, 1)


def conv_transpose2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    groups: int,
) -> np.ndarray:
    """Return the exact int64 accumulator of a transposed convolution; ``weight`` [out, in / groups, kh, kw].

    ``padding`` is cut off each side of the full result, of ``stride * (size - 1) + kernel`` places. Zeros between the elements
    of the input make it a convolution with the filter turned round.
    """
    n, channels, height, width = x.shape
    (sh, sw), (kh, kw), ((top, bottom), (left, right)) = strides, weight.shape[2:], padding
    spread = np.zeros((n, channels, sh * (height - 1) + 1, sw * (width - 1) + 1), np.int64)
    spread[:, :, ::sh, ::sw] = x
    around = ((kh - 1, kh - 1 - min(bottom, 0)), (kw - 1, kw - 1 - min(right, 0)))
    full = conv2d(spread, weight[:, :, ::-1, ::-1], bias, (1, 1), around, (1, 1), groups)
    return full[:, :, top : full.shape[2] - max(bottom, 0), left : full.shape[3] - max(right, 0)]


def bilinear(factors: tuple[int, int]) -> tuple[np.ndarray, int, tuple[int, int]]:
    """Return the integers of bilinear up-sampling, [h, w], their divisor, and what is cut off each side of the full result.

    As a transposed convolution of the image with its edges repeated once. Along an axis the integers are 1, 3, 5, ..., 5, 3, 1
    over ``2 s`` for an even factor ``s``, and 1, 2, 3, ..., 2, 1 over ``s`` for an odd one: places lie between pixels' centres.
    """
    rising = [np.arange(1, s + 1) if s % 2 else np.arange(1, 2 * s, 2) for s in factors]
    taps = [np.concatenate([up, up[::-1][s % 2 :]]) for up, s in zip(rising, factors, strict=True)]
    divisors = [s if s % 2 else 2 * s for s in factors]
    cut = tuple((3 * s - s % 2) // 2 for s in factors)
    return np.outer(*taps), divisors[0] * divisors[1], (cut[0], cut[1])


def dense(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Return the exact int64 accumulator of ``x @ weight.T + bias``; ``weight`` [out, in]."""
    acc = np.rint(np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T).astype(np.int64)
    return acc if bias is None else acc + np.asarray(bias, np.int64)


def matmul(a: np.ndarray, b: np.ndarray, transpose_b: bool) -> np.ndarray:
    """Return the exact int64 accumulator of ``a @ b``, of the last two axes; ``b`` is given as [..., n, k] where transposed."""
    b = np.swapaxes(b, -1, -2) if transpose_b else b
    return np.rint(np.asarray(a, np.float64) @ np.asarray(b, np.float64)).astype(np.int64)


def max_pool2d(
    x: np.ndarray, kernel: tuple[int, int], strides: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """Return the maxima of windows of ``x`` [n, c, h, w]; padding never wins."""
    x = np.pad(np.asarray(x, f32), ((0, 0), (0, 0), *padding), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, (2, 3))[:, :, :: strides[0], :: strides[1]]
    return windows.max((-2, -1))


def window_sums(
    x: np.ndarray, kernel: tuple[int, int], strides: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact sum over each window of ``x`` [n, c, h, w], and the number of its elements that lie inside ``x``."""

    def sums(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((0, 0), (0, 0), *padding))
        view = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
        return view[:, :, :: strides[0], :: strides[1]].sum((-2, -1))

    return sums(np.asarray(x, np.int64)), sums(np.ones((1, 1, *x.shape[2:]), np.int64))

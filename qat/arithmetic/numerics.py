"""The integer kernels' arithmetic, in NumPy: the reference that both frameworks' nodes are tested against, bit for bit.

Tensors here are on the integer grid: ``q - zero_point``, as int64 or integer-valued floats. A kernel's arithmetic differs
between runtimes only in how it leaves the accumulator, so each operator takes ``kernels``:

- ``mlas``: ONNX Runtime, all optimizations on (onnxruntime/core/mlas/lib/quantize.cpp, qladd.cpp, qlgavgpool.cpp).
- ``xnnpack``: LiteRT's default delegate (XNNPACK src/microparams-init.c, src/qs8-*).
- ``reference``: TFLite's reference kernels, also the microcontroller ones (tflite/kernels/internal/common.h,
  reference/integer_ops/): a 31-bit fixed-point multiplier.
- ``builtin``: TFLite's optimized kernels, which run what LiteRT's delegate leaves, convolutions with 4-bit weights say: the same
  multiplier, halves up. Seen equal in every bit.
"""

from __future__ import annotations

import math

import numpy as np

from .encoding import Encoding

f32 = np.float32

#: Biases are kept below this many grid units, so that an accumulator is exact in float32 (24 bits of mantissa).
BIAS_LIMIT = 2**23

#: The ``s_in / s_y`` of the additions that LiteRT's delegate takes: from the first to below the second (xnnpack_delegate.cc).
XNNPACK_ADD_RATIOS = (2.0**-10, 2.0**8)


# --- borders of a region ---------------------------------------------------------------------------------------------


def quantize(x: np.ndarray, encoding: Encoding, kernels: str = "mlas") -> np.ndarray:
    """Return ``x`` on the integer grid, as float32.

    ``mlas`` divides by the scale and rounds half to even (ONNX QuantizeLinear). ``xnnpack`` multiplies by the float32
    reciprocal of the scale (xnn_init_f32_qs8_cvt). ``reference`` divides and rounds half away from zero (AffineQuantize).
    """
    x = np.asarray(x, f32)
    scale = np.asarray(encoding.scale, f32)
    if kernels == "xnnpack":
        v = np.rint(x * (f32(1.0) / scale))
    elif kernels == "reference":
        v = round_half_away(x / scale)
    else:
        with np.errstate(over="ignore"):  # an overflow ends at the limit, as it should
            v = np.rint(x / scale)
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)


def dequantize(x_int: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Return the real values of a tensor on the integer grid: ``scale * x_int``."""
    return np.asarray(x_int, f32) * np.asarray(encoding.scale, f32)


def round_half_away(v: np.ndarray) -> np.ndarray:
    """Round to the nearest integer, halves away from zero (C's ``std::round``, TFLite's ``TfLiteRound``)."""
    return np.trunc(v + np.copysign(np.asarray(0.5, v.dtype), v))


# --- weights ---------------------------------------------------------------------------------------------------------


def weight_scale(weight: np.ndarray, bias: np.ndarray | None, input_scale: float, qmax: int, axis: int | None) -> np.ndarray:
    """Return the symmetric scale(s) of a weight: ``max|w| / qmax``, widened where the bias would exceed BIAS_LIMIT.

    One scale per entry of ``axis``, of shape (channels,), or a single one of shape (1,) where ``axis`` is None.
    """
    w = np.abs(np.asarray(weight, f32))
    peak = w.max().reshape(1) if axis is None else np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).max(1)
    scale = np.maximum(peak / f32(qmax), f32(np.finfo(f32).tiny * 2.0**40))
    if bias is not None:
        floor = np.abs(np.asarray(bias, f32)) / (f32(BIAS_LIMIT) * f32(input_scale))
        scale = np.maximum(scale, floor.max().reshape(1) if axis is None else floor)
    return scale.astype(f32)


def quantize_weight(weight: np.ndarray, scale: np.ndarray, qmax: int, axis: int | None) -> np.ndarray:
    """Return ``clip(round(w / scale), -qmax, qmax)`` as float32 integers."""
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    return np.clip(np.rint(np.asarray(weight, f32) / scale.reshape(shape)), -qmax, qmax).astype(f32)


def quantize_bias(bias: np.ndarray, input_scale: float, scale: np.ndarray) -> np.ndarray:
    """Return ``round(b / (s_x s_w))`` as float32 integers; the kernels read it as int32."""
    return np.rint(np.asarray(bias, f32) / (f32(input_scale) * scale))


# --- leaving the accumulator -----------------------------------------------------------------------------------------


def requantize(acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float, kernels: str) -> np.ndarray:
    """Return ``clamp(round(acc * multiplier), lo, hi)`` in the kernels' arithmetic. ``acc`` is exact (int64).

    ``mlas`` and ``xnnpack``: float32(acc) * float32 multiplier, half to even. ``reference``, ``builtin``: :func:`fixed_point`.
    ``multiplier`` broadcasts against ``acc``; see :func:`multiplier`.
    """
    acc = np.asarray(acc, np.int64)
    if kernels in ("reference", "builtin"):
        v = fixed_point(acc, multiplier, halves_up=kernels == "builtin").astype(f32)
    else:
        v = np.rint(acc.astype(f32) * np.asarray(multiplier, f32))
    return np.clip(v, lo, hi).astype(f32)


def multiplier(input_scale: float, scale: np.ndarray, output_scale: float, kernels: str = "mlas") -> np.ndarray:
    """Return ``(s_x * s_w) / s_y``, each step in float32 as the runtimes' preparation computes it; ``builtin``: in float64."""
    if kernels == "builtin":
        return np.asarray(float(input_scale) * np.asarray(scale, np.float64) / float(output_scale))
    return ((f32(input_scale) * np.asarray(scale, f32)) / f32(output_scale)).astype(f32)


def quantize_multiplier(value: float) -> tuple[int, int]:
    """Return (31-bit mantissa, shift) with ``value ~ mantissa * 2^(shift - 31)`` (TFLite QuantizeMultiplier)."""
    if value == 0.0:
        return 0, 0
    mantissa, shift = math.frexp(float(value))
    q = math.floor(mantissa * (1 << 31) + 0.5)
    if q == 1 << 31:
        q, shift = q // 2, shift + 1
    return (0, 0) if shift < -31 else (q, shift)


def fixed_point(acc: np.ndarray, value: np.ndarray, halves_up: bool = False) -> np.ndarray:
    """Return ``acc * value`` by TFLite's MultiplyByQuantizedMultiplier: two roundings, both halves away from zero, or up.

    ``RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(acc << left, mantissa), right)`` (gemmlowp fixedpoint.h); halves go up
    in the vectorized kernels.
    """
    value = np.broadcast_to(np.asarray(value, np.float64), np.broadcast_shapes(np.shape(value), acc.shape))
    pairs = {v: quantize_multiplier(v) for v in np.unique(value)}
    mantissa = np.vectorize(lambda v: pairs[v][0], otypes=[np.int64])(value)
    shift = np.vectorize(lambda v: pairs[v][1], otypes=[np.int64])(value)
    product = (acc << np.maximum(shift, 0)) * mantissa
    right = np.maximum(-shift, 0)
    half = (np.int64(1) << right) >> 1
    if halves_up:
        return (((product + (1 << 30)) >> 31) + half) >> right
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # C's division truncates.
    high = np.sign(product + nudge) * (np.abs(product + nudge) >> 31)
    return np.sign(high) * ((np.abs(high) + half) >> right)


# --- operators -------------------------------------------------------------------------------------------------------


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


def upsample_bilinear2d(x: np.ndarray, factors: tuple[int, int], encoding: Encoding) -> np.ndarray:
    """Return ``x`` [n, c, h, w] up-sampled, with one scale in and out: ``round(sum * ((s * float32(1 / divisor)) / s))``."""
    taps, divisor, cut = bilinear(factors)
    edges = np.pad(np.asarray(x, np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    weight = np.broadcast_to(taps, (x.shape[1], 1, *taps.shape))
    total = conv_transpose2d(edges, weight, None, factors, ((cut[0],) * 2, (cut[1],) * 2), x.shape[1])
    value = multiplier(float(encoding.scale), np.asarray(f32(1.0) / f32(divisor)), float(encoding.scale))
    return requantize(total, value, encoding.lo, encoding.hi, "mlas")


def dense(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Return the exact int64 accumulator of ``x @ weight.T + bias``; ``weight`` [out, in]."""
    acc = np.rint(np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T).astype(np.int64)
    return acc if bias is None else acc + np.asarray(bias, np.int64)


def add(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float, kernels: str) -> np.ndarray:
    """Return ``a + b`` on ``ey``'s grid, clamped to ``[lo, hi]``.

    - mlas: ``fma(A, r_a, fma(B, r_b, z_y - fma(r_a, z_a, r_b z_b)))`` in float32 on the raw integers ``A = a + z_a``,
      ``r = s_in / s_y`` (MlasQLinearAdd, as its compiler contracts it). Another order differs in one of 10^6 values.
    - xnnpack: integer multipliers of 21 bits sharing one shift, halves up (xnn_init_qs8_add_minmax_params). The delegate leaves
      an addition of very different scales (:func:`xnnpack_adds`) to TFLite's own kernel, which is the reference one.
    - reference: both inputs shifted left by 20 bits and rescaled by ``s_in / (2 max s)`` (reference/integer_ops/add.h).
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    ra, rb = f32(ea.scale) / f32(ey.scale), f32(eb.scale) / f32(ey.scale)
    if kernels == "mlas":
        fixed = f32(ey.zero_point) - fma(f32(ea.zero_point), ra, rb * f32(eb.zero_point))
        inner = fma((b + eb.zero_point).astype(f32), rb, fixed)
        v = np.rint(fma((a + ea.zero_point).astype(f32), ra, inner)) - ey.zero_point
    elif kernels == "xnnpack" and xnnpack_adds(ra, rb):
        ma, mb, shift = add_multipliers(float(ra), float(rb))
        v = (a * ma + b * mb + (1 << (shift - 1))) >> shift
    else:
        twice = 2.0 * max(float(ea.scale), float(eb.scale))
        wide_a = fixed_point(a << 20, np.asarray(float(ea.scale) / twice))
        wide_b = fixed_point(b << 20, np.asarray(float(eb.scale) / twice))
        v = fixed_point(wide_a + wide_b, np.asarray(twice / ((1 << 20) * float(ey.scale))))
    return np.clip(v, lo, hi).astype(f32)


def fma(a: np.ndarray | np.float32, b: np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """Return float32 ``a * b + c`` with one rounding: 8-bit by 24-bit products are exact in float64."""
    return (np.asarray(a, np.float64) * np.float64(b) + np.asarray(c, np.float64)).astype(f32)


def xnnpack_adds(ra: np.float32, rb: np.float32) -> bool:
    """Whether LiteRT's delegate takes an addition with these ``s_in / s_y``."""
    low, high = XNNPACK_ADD_RATIOS
    return bool(min(ra, rb) >= low and max(ra, rb) < high)


def add_multipliers(ra: float, rb: float) -> tuple[int, int, int]:
    """Return XNNPACK's (multiplier a, multiplier b, shift) for ``r = s_in / s_y``."""
    exponent = math.frexp(max(abs(ra), abs(rb)))[1] - 1
    shift = 20 - exponent
    return int(np.rint(math.ldexp(ra, shift))), int(np.rint(math.ldexp(rb, shift))), shift


def mul(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float, kernels: str) -> np.ndarray:
    """Return ``a * b`` on ``ey``'s grid: one requantization by ``(s_a * s_b) / s_y``.

    mlas adds the zero point before it rounds (MlasQLinearMul), which the others do after: in float32 that differs in one of
    10^5 values.
    """
    acc = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    value = multiplier(float(ea.scale), np.asarray(eb.scale), float(ey.scale))
    if kernels == "mlas":
        v = np.rint(acc.astype(f32) * value + f32(ey.zero_point)) - f32(ey.zero_point)
        return np.clip(v, lo, hi).astype(f32)
    return requantize(acc, value, lo, hi, kernels)


def mean(x: np.ndarray, axes: tuple[int, ...], ex: Encoding, ey: Encoding, kernels: str, keepdims: bool = False) -> np.ndarray:
    """Return the mean over ``axes``: the exact sum, requantized by ``s_x / (s_y * count)``.

    xnnpack sums the stored integers, zero point included, and takes the zero points in after it has multiplied: in float32
    that differs where the mean is near a half, in one of 10^4 values. Measured on 20,000 such sums.
    """
    x = np.asarray(x, np.int64)
    count = int(np.prod([x.shape[a] for a in axes]))
    if kernels == "xnnpack":
        scale = (f32(ex.scale) / f32(ey.scale)) * (f32(1) / f32(count))
        shift = f32(ey.zero_point) - f32(count * ex.zero_point) * scale
        raw = (x.sum(axes, keepdims=keepdims) + count * ex.zero_point).astype(f32)
        return np.clip(np.rint(raw * scale + shift) - f32(ey.zero_point), ey.lo, ey.hi).astype(f32)
    value = f32(ex.scale) / (f32(ey.scale) * f32(count))
    return requantize(x.sum(axes, keepdims=keepdims), np.asarray(value), ey.lo, ey.hi, kernels)


def max_pool2d(
    x: np.ndarray, kernel: tuple[int, int], strides: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """Return the maxima of windows of ``x`` [n, c, h, w]; padding never wins."""
    x = np.pad(np.asarray(x, f32), ((0, 0), (0, 0), *padding), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, (2, 3))[:, :, :: strides[0], :: strides[1]]
    return windows.max((-2, -1))


def avg_pool2d(
    x: np.ndarray,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    encoding: Encoding,
    kernels: str,
) -> np.ndarray:
    """Return the averages over the elements of each window that lie inside ``x`` [n, c, h, w]; one scale in and out.

    - mlas: written as a convolution with ones, so ``round(sum * ((s * float32(1 / count)) / s))``, without padding.
    - xnnpack, reference: TFLite's integer pooling, halves away from zero (reference/integer_ops/pooling.h).
    """

    def windows(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((0, 0), (0, 0), *padding))
        view = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
        return view[:, :, :: strides[0], :: strides[1]].sum((-2, -1))

    total = windows(np.asarray(x, np.int64))
    count = windows(np.ones((1, 1, *x.shape[2:]), np.int64))
    if kernels == "mlas":
        scale = f32(encoding.scale)
        v = np.rint(total.astype(f32) * ((scale * (f32(1.0) / count.astype(f32))) / scale))
    else:
        # The kernel averages the stored integers, zero point included, which decides what "away from zero" means.
        raw = total + count * encoding.zero_point
        v = np.trunc((raw + np.where(raw > 0, count // 2, -(count // 2))) / count) - encoding.zero_point
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)

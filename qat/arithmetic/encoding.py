"""Encodings: the scale, zero point and integer limits of one tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: The greatest value of a softmax counts as this at least.
FINEST = 2.0**-13
#: The scale of a tensor that is zero everywhere. Any positive one represents it; as one of usual values it lets kernels compute.
OF_ZEROS = 2.0**-8


@dataclass(frozen=True, eq=False)
class Encoding:
    """``real = scale * (q - zero_point)`` for integers ``q`` in ``[qmin, qmax]``.

    ``scale`` is float32: of shape () for one scale, of shape (channels,) along ``axis`` for one scale a channel.
    """

    scale: np.ndarray
    zero_point: int
    qmin: int
    qmax: int
    axis: int | None = None

    @property
    def bits(self) -> int:
        """The width of the integer type that holds the values."""
        span = max(-self.qmin - 1, self.qmax) if self.qmin < 0 else self.qmax
        for bits in (2, 4, 8, 16, 32):
            if span < (1 << (bits - 1 if self.qmin < 0 else bits)):
                return bits
        return 32

    @property
    def dtype(self) -> str:
        """NumPy's name of the integer type that holds the values (``int4`` is held in int8)."""
        bits = max(self.bits, 8)
        return f"int{bits}" if self.qmin < 0 else f"uint{bits}"

    @property
    def lo(self) -> int:
        """The lower limit on the integer grid, ``qmin - zero_point``."""
        return self.qmin - self.zero_point

    @property
    def hi(self) -> int:
        """The upper limit on the integer grid, ``qmax - zero_point``."""
        return self.qmax - self.zero_point

    def same_as(self, other: Encoding) -> bool:
        """Whether both describe the same grid, the scales equal in every float32 bit."""
        return (
            np.array_equal(np.asarray(self.scale, np.float32), np.asarray(other.scale, np.float32))
            and (self.zero_point, self.qmin, self.qmax) == (other.zero_point, other.qmin, other.qmax)
        )  # fmt: skip

    def to_dict(self) -> dict[str, object]:
        """Return JSON-ready values. Scales are written as the shortest decimals that read back to the same float32."""
        scale = np.asarray(self.scale, np.float32)
        return {
            "scale": [float(str(s)) for s in scale.reshape(-1)] if scale.ndim else float(str(scale[()])),
            "zero_point": self.zero_point,
            "bits": self.bits,
            "qmin": self.qmin,
            "qmax": self.qmax,
            "dtype": self.dtype,
            "axis": self.axis,
        }


def from_range(low: float, high: float, qmin: int, qmax: int, symmetric: bool = False) -> Encoding:
    """Return the encoding that covers ``[low, high]``, widened so that it holds zero exactly.

    Asymmetric: ``scale = (high - low) / (qmax - qmin)``, ``zero_point = round(qmin - low / scale)``. Symmetric:
    ``scale = max(|low|, |high|) / qmax``, zero point 0. All in float32, so that every framework gets the same bits.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 3.
    """
    f32 = np.float32
    lo, hi = f32(min(low, 0.0)), f32(max(high, 0.0))
    if symmetric:
        return Encoding(_usable(f32(max(-lo, hi)) / f32(qmax)), 0, qmin, qmax)
    scale = _usable(f32(hi - lo) / f32(qmax - qmin))
    zero_point = int(np.clip(np.rint(f32(qmin) - lo / scale), qmin, qmax))
    return Encoding(scale, zero_point, qmin, qmax)


def of_probabilities(greatest: float, qmin: int, qmax: int) -> Encoding:
    """Return the encoding of a softmax whose greatest value is ``greatest``: steps of 1/256, or finer ones.

    The greatest takes half of the integers, so that a greater one has room. The scale is one by a whole number, by which ONNX
    Runtime's kernel multiplies (contrib_ops/cpu/quantization/qlinear_softmax.cc): the float32 whose inverse is not below it.
    """
    f32 = np.float32
    half = f32((qmax - qmin + 1) // 2)
    whole = np.maximum(np.floor(half / f32(max(greatest, FINEST))), f32(256))
    scale = f32(1) / whole
    return Encoding(np.asarray(scale if whole == 256 else np.nextafter(scale, f32(0))), qmin, qmin, qmax)


def packed_int4(values: np.ndarray) -> np.ndarray:
    """Return integers of -8..7 as bytes of two, the first in the low half: the form of both ONNX and TFLite."""
    nibbles = np.asarray(values, np.int8).reshape(-1).view(np.uint8) & 0xF
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    return np.asarray(nibbles[0::2] | (nibbles[1::2] << 4), np.uint8)


def _usable(scale: np.floating) -> np.ndarray:
    return np.asarray(scale if scale > np.finfo(np.float32).tiny * 2**24 else OF_ZEROS, np.float32)

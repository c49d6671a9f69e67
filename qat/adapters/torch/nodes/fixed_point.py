"""TFLite's fixed-point multiplication on tensors: a mantissa of 31 bits and a shift; see :mod:`qat.arithmetic.tflite`."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.arithmetic.tflite import quantize_multiplier


def halves_away(acc: Tensor, value: float) -> Tensor:
    """Return ``acc * value``, halves away from zero, as TFLite's reference kernels round."""
    mantissa, shift = quantize_multiplier(value)
    acc = acc.long()
    left, right = max(shift, 0), max(-shift, 0)
    # A negative product is nudged by one less than a positive one.
    high = (((acc.abs() << left) * mantissa + (1 << 30) - (acc < 0).long()) >> 31) + ((1 << right) >> 1)
    return (acc.sign() * (high >> right)).float()


def halves_up(acc: Tensor, multiplier: Tensor) -> Tensor:
    """Return ``acc * multiplier``, halves up, as TFLite's optimized kernels round."""
    mantissa, shift = _quantized_multiplier(multiplier)
    left, right = shift.clamp(min=0), (-shift).clamp(min=0)
    high = ((acc.long() << left) * mantissa + (1 << 30)) >> 31
    return ((high + ((torch.ones_like(right) << right) >> 1)) >> right).float()


def _quantized_multiplier(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 mantissa of 31 bits and shift; see :func:`qat.arithmetic.tflite.quantize_multiplier`."""
    fraction, shift = torch.frexp(value.double())
    mantissa = (fraction * 2.0**31 + 0.5).floor().long()
    full = mantissa == 1 << 31
    return torch.where(full, mantissa // 2, mantissa), shift.long() + full

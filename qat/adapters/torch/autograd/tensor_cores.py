"""Accumulators by a GPU's tensor cores: the same numbers as in float32, on a device that adds up as it should.

bfloat16 holds every integer up to 256, TF32 up to 2048, and products of these are exact in float32. A sum of integers is exact in
any order while it stays below 2^24. No standard promises that a device adds in float32, or that cuDNN does not choose Winograd's
algorithm, which is not exact. Hence each shape is tried once, in its first pass, against float64. From then on it is computed in
the first of ``FORMS`` that was exact, and no pass waits for the device.

These kernels never ran on a GPU here: the tests run them on the CPU, which computes the products of bfloat16 in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.arithmetic.grid import EXACT_IN_FLOAT

from .byte_kernels import Geometry, Pack

#: So many products of a byte and a weight have a sum below 2^24, whatever their signs: a multiple of a tensor core's tile.
PRODUCTS = EXACT_IN_FLOAT // (255 * 127) // 16 * 16


@dataclass(frozen=True)
class Form:
    """A way to compute a convolution's accumulator from integers.

    Attributes:
        name: what reports call it.
        compute: returns it from input, weight, bias and geometry.
        pointwise: whether the form is for 1x1 convolutions alone.
    """

    name: str
    compute: Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]
    pointwise: bool = False


def _in_bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Compute products of matrices, one for each ``PRODUCTS`` channels."""
    rows, columns = x.permute(0, 2, 3, 1).bfloat16(), weight.flatten(1).bfloat16().t()
    flat = rows.reshape(-1, rows.shape[-1])
    starts = range(0, len(columns), PRODUCTS)
    total = reduce(Tensor.add_, (_product(flat[:, i : i + PRODUCTS], columns[i : i + PRODUCTS]) for i in starts))
    if bias is not None:
        total.add_(bias)
    return total.view(*rows.shape[:-1], -1).permute(0, 3, 1, 2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a float32 product of matrices in bfloat16. The CPU has no such operator: there it takes operands of float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _in_float32(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Compute by PyTorch's operator: on tensor cores in TF32, unless the user's flags forbid it."""
    return F.conv2d(x, weight.float(), bias, *geometry)


def _in_float64(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    return F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), *geometry).round_().float()


FORMS = (Form("bfloat16", _in_bfloat16, pointwise=True), Form("float32", _in_float32), Form("float64", _in_float64))

#: The form of each shape that was tried in this process.
chosen: dict[Any, Form] = {}


def conv2d(
    x: Tensor,
    stored: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    lo: int | None,
    qmax: int,
    pack: Pack | None = None,
) -> Tensor:
    """Return a convolution's accumulator; the arguments are those of ``byte_kernels.conv2d``. Nothing is packed."""
    if lo is None or torch.compiler.is_compiling():
        return _in_float32(x, weight, bias, geometry)
    last = x.is_contiguous(memory_format=torch.channels_last)
    key = (x.device, x.shape, last, weight.shape, tuple(map(tuple, geometry[:3])), geometry[3])
    if key not in chosen:
        chosen[key] = _first_exact(x, weight, geometry)
    return chosen[key].compute(x, weight, bias, geometry)


def linear(
    x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, lo: int | None, qmax: int, pack: Pack | None = None
) -> Tensor:
    """Return a fully connected layer's accumulator; the arguments are those of ``byte_kernels.linear``. Nothing is packed."""
    if lo is None or torch.compiler.is_compiling():
        return F.linear(x, weight.float(), bias)
    pixels = x.reshape(-1, x.shape[-1], 1, 1)
    return conv2d(pixels, pixels, weight[..., None, None], bias, ((1, 1), (0, 0), (1, 1), 1), lo, qmax).reshape(*x.shape[:-1], -1)


def _first_exact(x: Tensor, weight: Tensor, geometry: Geometry) -> Form:
    """Return the first form that equals float64 on integers of these shapes, the largest sums among them."""
    numbers = torch.Generator(x.device).manual_seed(0)
    x = torch.empty_like(x).random_(-255, 256, generator=numbers)
    x[0].remainder_(2.0).add_(254.0)
    weight = torch.empty_like(weight, dtype=torch.float32).random_(-127, 128, generator=numbers)
    weight[0] = (torch.arange(weight[0].numel(), device=x.device) < PRODUCTS).view(weight[0].shape) * 127.0
    weight, expected = weight.to(torch.int8), _in_float64(x, weight, None, geometry)
    strides, padding, _, groups = geometry
    pointwise = weight.shape[2:].numel() == 1 and (tuple(strides), tuple(padding), groups) == ((1, 1), (0, 0), 1)
    fits = pointwise and (not x.is_cuda or torch.cuda.is_bf16_supported(including_emulation=False))
    fitting = [form for form in FORMS[:-1] if fits or not form.pointwise]
    return next((form for form in fitting if _equals(form, expected, x, weight, geometry)), FORMS[-1])


def _equals(form: Form, expected: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Return whether a form gives what is expected; not where this PyTorch or the device lacks the operator."""
    try:
        return torch.equal(form.compute(x, weight, None, geometry), expected)
    except (RuntimeError, TypeError):
        return False

"""Float functions as the target's runtime computes them on this processor, see :mod:`qat.arithmetic.float_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.arithmetic import float_kernels

from .float_resizing import is_trained

SOFTMAX = torch.ops.aten.softmax.int


def as_runtime(kind: str, x: Tensor, kernels: str) -> Tensor | None:
    """Return a function, a softmax over the last axis, in the arithmetic of ``kernels``; None where that is not known."""
    form = float_kernels.as_runtime(kind, kernels, x.shape[1:]) if x.dtype is torch.float32 else None
    return None if form is None else torch.from_numpy(form(x.detach().numpy()))


def softmax_of_onnxruntime(x: Tensor, axis: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return a softmax over any axis as ONNX Runtime computes it."""
    return _softmax(x, axis, dtype, "mlas")


def softmax_of_xnnpack(x: Tensor, axis: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return a softmax over any axis as LiteRT's delegate computes it."""
    return _softmax(x, axis, dtype, "xnnpack")


def _softmax(x: Tensor, axis: int, dtype: torch.dtype | None, kernels: str) -> Tensor:
    eager = not (is_trained(x) or torch.compiler.is_compiling()) and x.device.type == "cpu" and dtype in (None, x.dtype)
    found = as_runtime("softmax", x.movedim(axis, -1), kernels) if eager and x.ndim > 1 else None
    return SOFTMAX(x, axis, dtype) if found is None else found.movedim(-1, axis)

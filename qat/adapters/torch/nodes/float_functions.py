"""Float functions as the target's runtime computes them on this processor, see :mod:`qat.arithmetic.float_kernels`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qat.arithmetic import float_kernels

from .float_resizing import is_trained

SOFTMAX, RUNNING_SUM = torch.ops.aten.softmax.int, torch.ops.aten.cumsum.default


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


def running_sum(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Add numbers one by one in float32, as both runtimes do; PyTorch adds in float64."""
    if not _is_evaluated(x, dtype) or x.dtype is not torch.float32:
        return RUNNING_SUM(x, axis, dtype=dtype)
    return torch.from_numpy(np.cumsum(x.detach().numpy(), axis, dtype=np.float32))


def _softmax(x: Tensor, axis: int, dtype: torch.dtype | None, kernels: str) -> Tensor:
    known = _is_evaluated(x, dtype) and x.ndim > 1
    found = as_runtime("softmax", x.movedim(axis, -1), kernels) if known else None
    return SOFTMAX(x, axis, dtype) if found is None else found.movedim(-1, axis)


def _is_evaluated(x: Tensor, dtype: torch.dtype | None) -> bool:
    captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (is_trained(x) or captured) and type(x) is Tensor and x.device.type == "cpu" and dtype in (None, x.dtype)

"""Nodes that move integers without changing them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd.kept_bytes import moved
from qat.arithmetic.masks import HIDDEN

from .base import Node

aten = torch.ops.aten


class _MaxPool(torch.autograd.Function):
    """``max_pool2d`` that keeps the indices of the maxima, in 16 bits where the image is small enough, and not its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        y, indices = aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(indices.to(torch.int16 if x.shape[-1] * x.shape[-2] <= 2**15 else torch.int32))
        ctx.window, ctx.shape = window, x.shape
        ctx.layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        # The kernel takes the shape and the layout of the input, not its values.
        like = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.layout)
        dilation, ceil = (1, 1), False
        return aten.max_pool2d_with_indices_backward(grad, like, *ctx.window, dilation, ceil, indices.long()), None


class DataMovement(Node):
    """A data movement: inputs and output share one scale, and the code is the same in float."""

    def integer(self, *tensors: Tensor) -> Tensor:
        """Move the integers."""
        return self.real(*tensors)


class View(DataMovement):
    """A data movement that copies nothing: a reader of its result keeps the memory of its input."""

    keeps_inputs = False

    def seen(self, y: Tensor) -> Tensor:
        """Leave out what a mask has hidden: that needs no integer of its own."""
        return y[y > HIDDEN]

    def integer(self, *tensors: Tensor) -> Tensor:
        """Move the integers, and the bytes that are kept of them."""
        (x,) = tensors
        return moved(x, self.real(x), self.real)


class MaxPool2d(DataMovement):
    """Max pooling; the grid's order is that of the real values."""

    keeps_inputs = False

    def integer(self, *tensors: Tensor) -> Tensor:
        """Pool integers."""
        (x,) = tensors
        return _MaxPool.apply(*self.padded(x)) if self.training else self.real(x)

    def real(self, x: Tensor) -> Tensor:
        """Pool; padding never wins."""
        x, window = self.padded(x)
        return F.max_pool2d(x, *window)

    def padded(self, x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the input, padded where the operator cannot pad it, and the operator's window, strides and padding."""
        kernel, strides = self.attrs["kernel"], self.attrs["strides"]
        (top, bottom), (left, right) = self.attrs["padding"]
        if (top, left) != (bottom, right) or 2 * top > kernel[0] or 2 * left > kernel[1]:
            return F.pad(x, (left, right, top, bottom), value=-float("inf")), (kernel, strides, (0, 0))
        return x, (kernel, strides, (top, left))


class Relu(DataMovement):
    """A ReLU that no kernel absorbed."""

    def real(self, x: Tensor) -> Tensor:
        """Clamp at 0, which is 0 on the grid too."""
        return F.relu(x)


class Concat(DataMovement):
    """Concatenation of tensors that share one scale."""

    keeps_inputs = False

    def real(self, *tensors: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat(tensors, self.attrs["axis"])


class Reshape(View):
    """A change of shape; the first axis is the batch, or is left over."""

    def real(self, x: Tensor) -> Tensor:
        """Reshape."""
        return x.reshape(-1 if self.attrs.get("folds") else x.shape[0], *self.attrs["shape"][1:])


class Transpose(View):
    """A permutation of the axes after the batch."""

    def real(self, x: Tensor) -> Tensor:
        """Permute."""
        return x.permute(self.attrs["axes"])


class Pad(DataMovement):
    """Spatial padding with zeros, which are 0 on the grid too."""

    keeps_inputs = False

    def real(self, x: Tensor) -> Tensor:
        """Pad."""
        (top, bottom), (left, right) = self.attrs["padding"]
        return F.pad(x, (left, right, top, bottom))

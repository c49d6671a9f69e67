"""The gradients of a convolution: by PyTorch's operator, and by matrix products where those are faster.

oneDNN computes the gradient of a weight in a layout of its own. Where a weight of millions of values meets few pixels, as in the
last layers of a ResNet, the conversion into the weight's layout takes longer than the arithmetic; a copy of the windows takes a
fraction of that time. A 1x1 convolution is a matrix product already: for few pixels, in channels last, it takes three quarters
of the time of PyTorch's operator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .vnni import Geometry

convolution_backward = torch.ops.aten.convolution_backward.default

#: From this ratio of the weight's size to the windows' size a matrix product was measured to be faster.
_WEIGHT_OF_WINDOWS = 4

#: Up to this many pixels the products of a 1x1 convolution were measured to be faster; at four times as many both are equal.
_ROWS = 512


def of_convolution(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias; None for one that is not ``needed``."""
    strides, padding, dilations, groups = geometry
    need_x, need_w, need_b = needed
    if _is_product(grad, x, weight, geometry):
        rows, matrix = _rows(grad), weight.flatten(1)
        gx = (rows @ matrix).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2) if need_x else None
        return gx, (rows.t() @ _rows(x)).view(weight.shape) if need_w else None, rows.sum(0) if need_b else None
    if need_w and _product_pays(grad, weight, geometry):
        gx = of_convolution(grad, x, weight, geometry, (True, False, False))[0] if need_x else None
        rows = _rows(grad)
        return gx, _of_weight(rows, x, weight, geometry), rows.sum(0) if need_b else None
    if not any(needed):
        return None, None, None
    sizes, window = [len(weight)], (strides, padding, dilations)
    out: tuple[Tensor, Tensor, Tensor] = convolution_backward(grad, x, weight, sizes, *window, False, [0, 0], groups, [*needed])
    return out


def _is_product(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Return whether all gradients are products, with few rows, of matrices that need no copy."""
    pointwise = weight.shape[2:].numel() == 1 and tuple(map(tuple, geometry[:2])) == ((1, 1), (0, 0)) and geometry[3] == 1
    return (
        pointwise
        and grad.device.type == "cpu"
        and grad.numel() <= _ROWS * len(weight)
        and all(t.is_contiguous(memory_format=torch.channels_last) for t in (grad, x))
    )


def _rows(x: Tensor) -> Tensor:
    """Return images as a matrix with one row for each pixel."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _product_pays(grad: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    simple = tuple(geometry[2]) == (1, 1) and geometry[3] == 1
    return simple and grad.device.type == "cpu" and len(weight) ** 2 >= _WEIGHT_OF_WINDOWS * grad.numel()


def _of_weight(rows: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient of a weight, in the weight's layout in memory, from that of the output, one row for each pixel."""
    (down, right), (rows_padded, columns_padded) = geometry[:2]
    outputs, channels, height, width = weight.shape
    windows = F.pad(x, (columns_padded, columns_padded, rows_padded, rows_padded)).unfold(2, height, down).unfold(3, width, right)
    if weight.is_contiguous():
        return (rows.t() @ windows.permute(0, 2, 3, 1, 4, 5).reshape(len(rows), -1)).view(weight.shape)
    windows = windows.permute(0, 2, 3, 4, 5, 1).reshape(len(rows), -1)
    return (rows.t() @ windows).view(outputs, height, width, channels).permute(0, 3, 1, 2)

"""The gradients of a convolution: by PyTorch's own operator, and that of a large weight by a product of matrices.

oneDNN computes a weight's gradient in a layout of its own. Where a weight of millions meets few places, as in the last layers of
a ResNet, bringing it into the weight's takes longer than the arithmetic; a copy of the windows takes a fraction of that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.vnni import Geometry

convolution_backward = torch.ops.aten.convolution_backward.default

#: A weight's gradient is a product where the weight is this many times as large as the windows: seen to pay from here.
_WEIGHT_OF_WINDOWS = 4


def of_convolution(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias; None for one that is not ``needed``."""
    strides, padding, dilations, groups = geometry
    need_x, need_w, need_b = needed
    if need_w and _product_pays(grad, weight, geometry):
        gx = of_convolution(grad, x, weight, geometry, (True, False, False))[0] if need_x else None
        rows = grad.permute(0, 2, 3, 1).reshape(-1, len(weight))
        return gx, _of_weight(rows, x, weight, geometry), rows.sum(0) if need_b else None
    if not any(needed):
        return None, None, None
    sizes, window = [len(weight)], (strides, padding, dilations)
    out: tuple[Tensor, Tensor, Tensor] = convolution_backward(grad, x, weight, sizes, *window, False, [0, 0], groups, [*needed])
    return out


def _product_pays(grad: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    simple = tuple(geometry[2]) == (1, 1) and geometry[3] == 1
    return simple and grad.device.type == "cpu" and len(weight) ** 2 >= _WEIGHT_OF_WINDOWS * grad.numel()


def _of_weight(rows: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return a weight's gradient, in its layout in memory, from that of the output as rows of a matrix, one for each place."""
    (down, right), (high, wide) = geometry[:2]
    outputs, channels, height, width = weight.shape
    windows = F.pad(x, (wide, wide, high, high)).unfold(2, height, down).unfold(3, width, right)
    if weight.is_contiguous():
        return (rows.t() @ windows.permute(0, 2, 3, 1, 4, 5).reshape(len(rows), -1)).view(weight.shape)
    windows = windows.permute(0, 2, 3, 4, 5, 1).reshape(len(rows), -1)
    return (rows.t() @ windows).view(outputs, height, width, channels).permute(0, 3, 1, 2)

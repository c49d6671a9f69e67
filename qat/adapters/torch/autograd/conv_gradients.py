"""The gradients of a convolution, each by the form that is the fastest for its shape.

oneDNN's backward pass takes another time in each layout of memory, and the best one differs from shape to shape. Where a weight
of millions of values meets few pixels, as in the last layers of a ResNet, its conversion into the kernel's layout takes longer
than the arithmetic: a product of matrices with a copy of the windows needs none. A 1x1 convolution is a product of matrices
already. The gradient of an input is itself a convolution of the output's gradient, for which another kernel is there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .byte_kernels import Geometry
from .kernel_choice import Form, by_precision, gradients, has_bf16, rounded

convolution_backward = torch.ops.aten.convolution_backward.default

#: The most numbers of float32 that a vector of the processor holds.
_VECTOR = 16

LAST, PLAIN = torch.channels_last, torch.contiguous_format


def of_convolution(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias; None for one that is not ``needed``.

    Those of input and weight have the layout of input and weight in memory.
    """
    need_x, need_w, need_b = needed
    precision = gradients()
    of_x = of_input[precision].form(grad, x, weight, geometry) if need_x else None
    of_w = of_weight[precision].form(grad, x, weight, geometry, need_b) if need_w else None
    if of_x is _INPUT[0] and of_w is _WEIGHT[0] and not _is_unsafe(x, weight, geometry):  # one call does both
        both = _backward(grad, x, weight, geometry, [*needed])
        return _as(both[0], x), _as(both[1], weight), both[2] if need_b else None
    gx = None if of_x is None else of_x.compute(grad, x, weight, geometry)
    if of_w is not None:
        return gx, *of_w.compute(grad, x, weight, geometry, need_b)
    return gx, None, grad.sum((0, 2, 3)) if need_b else None


def _backward(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias by PyTorch's operator; what is not needed is none."""
    strides, padding, dilations, groups = geometry
    found: tuple[Tensor, Tensor, Tensor] = convolution_backward(
        grad, x, weight, [len(weight)], strides, padding, dilations, False, [0, 0], groups, needed
    )
    return found


def _as(found: Tensor, like: Tensor) -> Tensor:
    """Return a tensor in the layout of another one of the same shape."""
    return found.contiguous(memory_format=PLAIN if like.is_contiguous() else LAST)


def _rows(x: Tensor) -> Tensor:
    """Return images as a matrix with one row for each pixel."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """Return the images, channels last, of a matrix with one row for each pixel; ``like`` has their batch, height and width."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    """Return whether a convolution is one product of matrices: of 1x1, perhaps of every second pixel."""
    return weight.shape[2:].numel() == 1 and tuple(geometry[1]) == (0, 0) and geometry[3] == 1


def _read(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the pixels that a 1x1 convolution reads."""
    down, right = geometry[0]
    return x if (down, right) == (1, 1) else x[:, :, ::down, ::right]


def _is_unsafe(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Return whether the operator's gradient of the weight may write beyond its memory.

    Without AVX512 oneDNN's does, for fewer channels than a vector holds, in ``channels_last``: of a 1x1 convolution with strides
    whose last pixels are not read.
    """
    return x.shape[1] < _VECTOR and _is_pointwise(weight, geometry) and tuple(geometry[0]) != (1, 1)


# --- of the input ---------------------------------------------------------------------------------------------------------


def _input_plainly(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return _as(_backward(grad, x, weight, geometry, [True, False, False])[0], x)


def _input_in(layout: torch.memory_format) -> Form[Tensor]:
    def compute(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        # The operator reads nothing of the input but its shape and its layout.
        shape = torch.empty_like(x, memory_format=layout)
        found = _backward(grad.contiguous(memory_format=layout), shape, weight, geometry, [True, False, False])[0]
        return _as(found, x)

    def fits(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
        return not (grad.is_contiguous(memory_format=layout) and x.is_contiguous(memory_format=layout))

    return Form("channels_last" if layout is LAST else "plain", compute, fits)


def _input_as_product(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    found = _images(_rows(grad) @ weight.flatten(1), grad)
    if tuple(geometry[0]) == (1, 1):
        return _as(found, x)
    gx = torch.zeros_like(x)
    _read(gx, geometry).copy_(found)
    return gx


def _input_as_convolution(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    _, padding, dilations, groups = geometry
    outputs, channels, *window = weight.shape
    turned = weight.view(groups, -1, channels, *window).transpose(1, 2).flip(3, 4)
    turned = turned.reshape(groups * channels, outputs // groups, *window)
    around = [d * (k - 1) - p for d, k, p in zip(dilations, window, padding, strict=True)]
    return _as(F.conv2d(grad, turned, None, 1, around, dilations, groups), x)


def _can_be_convolution(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    strides, padding, dilations, _ = geometry
    around = [d * (k - 1) - p for d, k, p in zip(dilations, weight.shape[2:], padding, strict=True)]
    return tuple(strides) == (1, 1) and min(around) >= 0


def _input_in_bf16(form: Form[Tensor]) -> Form[Tensor]:
    def compute(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        shape = torch.empty_like(x, dtype=torch.bfloat16)  # no form reads more of the input
        return form.compute(grad.bfloat16(), shape, weight.bfloat16(), geometry).float()

    return Form(f"bf16 {form.name}", compute, lambda *args: has_bf16() and form.fits(*args))


def _input_rounded(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return _input_plainly(rounded(grad), x, rounded(weight), geometry)


_INPUT = (
    Form("operator", _input_plainly),
    _input_in(LAST),
    _input_in(PLAIN),
    Form("product", _input_as_product, lambda grad, x, weight, geometry: _is_pointwise(weight, geometry)),
    Form("convolution", _input_as_convolution, _can_be_convolution),
)
of_input = by_precision("gradient of the input", 2, _INPUT, Form("rounded", _input_rounded), tuple(map(_input_in_bf16, _INPUT)))

# --- of weight and bias ---------------------------------------------------------------------------------------------------

_Pair = tuple[Tensor | None, Tensor | None]


def _weight_plainly(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
    if _is_unsafe(x, weight, geometry):
        return _weight_as_product(grad, x, weight, geometry, bias)
    _, gw, gb = _backward(grad, x, weight, geometry, [False, True, bias])
    return _as(gw, weight), gb if bias else None


def _weight_in(layout: torch.memory_format) -> Form[_Pair]:
    def compute(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
        grad, x = (t.contiguous(memory_format=layout) for t in (grad, x))
        return _weight_plainly(grad, x, weight, geometry, bias)

    def fits(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> bool:
        return not (grad.is_contiguous(memory_format=layout) and x.is_contiguous(memory_format=layout))

    return Form("channels_last" if layout is LAST else "plain", compute, fits)


def _weight_as_product(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
    rows = _rows(grad)
    gw = (rows.t() @ _rows(_read(x, geometry))).view(weight.shape)
    return _as(gw, weight), rows.sum(0) if bias else None


def _weight_by_windows(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
    rows = _rows(grad)
    (down, right), (above, beside) = geometry[:2]
    outputs, channels, height, width = weight.shape
    windows = F.pad(x, (beside, beside, above, above)).unfold(2, height, down).unfold(3, width, right)
    if weight.is_contiguous():
        gw = (rows.t() @ windows.permute(0, 2, 3, 1, 4, 5).reshape(len(rows), -1)).view(weight.shape)
    else:
        windows = windows.permute(0, 2, 3, 4, 5, 1).reshape(len(rows), -1)
        gw = (rows.t() @ windows).view(outputs, height, width, channels).permute(0, 3, 1, 2)
    return _as(gw, weight), rows.sum(0) if bias else None


def _has_windows(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> bool:
    """Return whether the windows can be copied, in no more memory than the gradient takes."""
    rows = grad.numel() // grad.shape[1]
    return tuple(geometry[2]) == (1, 1) and geometry[3] == 1 and weight.shape[2:].numel() > 1 and rows <= len(weight)


def _weight_by_taps(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
    """Sum, for each place of a depthwise window, the products of the gradient and the pixels that it met there."""
    (down, right), (above, beside), (far, wide), _ = geometry
    padded = F.pad(x, (beside, beside, above, above))
    height, width = ((n - 1) * stride + 1 for n, stride in zip(grad.shape[2:], (down, right), strict=True))
    taps = [
        (padded[:, :, i * far : i * far + height : down, j * wide : j * wide + width : right] * grad).sum((0, 2, 3))
        for i in range(weight.shape[2])
        for j in range(weight.shape[3])
    ]
    return _as(torch.stack(taps, 1).view(weight.shape), weight), grad.sum((0, 2, 3)) if bias else None


def _is_depthwise(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> bool:
    return geometry[3] == x.shape[1] == len(weight) and geometry[3] > 1


def _weight_in_bf16(form: Form[_Pair]) -> Form[_Pair]:
    def compute(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
        shape = torch.empty_like(weight, dtype=torch.bfloat16)  # no form reads more of the weight
        gw, _ = form.compute(grad.bfloat16(), x.bfloat16(), shape, geometry, False)
        return None if gw is None else gw.float(), grad.sum((0, 2, 3)) if bias else None

    return Form(f"bf16 {form.name}", compute, lambda *args: has_bf16() and form.fits(*args))


def _weight_rounded(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bias: bool) -> _Pair:
    gw, _ = _weight_plainly(rounded(grad), rounded(x), weight, geometry, False)
    return gw, grad.sum((0, 2, 3)) if bias else None


_WEIGHT = (
    Form("operator", _weight_plainly),
    _weight_in(LAST),
    _weight_in(PLAIN),
    Form("product", _weight_as_product, lambda grad, x, weight, geometry, bias: _is_pointwise(weight, geometry)),
    Form("windows", _weight_by_windows, _has_windows),
    Form("taps", _weight_by_taps, _is_depthwise),
)
of_weight = by_precision(
    "gradient of the weight", 2, _WEIGHT, Form("rounded", _weight_rounded), tuple(map(_weight_in_bf16, _WEIGHT[:-1]))
)

"""Signals, (batch, channels, length), written as images of height 1: the runtimes' kernels take images.

An operator that has a counterpart on images gets an input with an axis of size 1 before the length; its output loses that axis.
Two such operators in a row keep the axis between them, so that a convolution meets its BatchNorm and its activation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from .rewriter import Rewrite, Rewriter, given

aten = torch.ops.aten

#: The position of the axis of size 1.
_HEIGHT = 2


def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """Convolve images of height 1. The weight, [out, in / groups, length], is the parameter as the user has it."""
    return F.conv2d(x, as_image_weight(weight), bias, stride, padding, dilation, groups)


def conv_transpose1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, extra: Any, groups: int, dilation: Any
) -> Tensor:
    """Convolve images of height 1, transposed. The weight, [in, out / groups, length], is the parameter as the user has it."""
    return F.conv_transpose2d(x, as_image_weight(weight), bias, stride, padding, extra, groups, dilation)


def as_image_weight(weight: Tensor) -> Tensor:
    """Return the weight of a conv1d as one of images, [out, in / groups, 1, length]; any other weight as it is.

    A weight of one axis has a factor for each channel, which is a filter of 1x1.
    """
    if weight.ndim == 1:
        return weight.view(-1, 1, 1, 1)
    return weight.unsqueeze(_HEIGHT) if weight.ndim == 3 else weight


def _rank(node: Any) -> int:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.ndim if isinstance(value, Tensor) and value.dtype == torch.float32 else -1


def _is_image(node: Any) -> bool:
    """Return whether a signal is an image of height 1 without that axis."""
    return _rank(node) == 3 and node.target is aten.squeeze.dim and node.args[1] == _HEIGHT


def _image(w: Rewriter, n: fx.Node, signal: fx.Node) -> Any:
    return signal.args[0] if _is_image(signal) else w.call(n, aten.unsqueeze.default, signal, _HEIGHT)


def _signal(w: Rewriter, n: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    # The shape is known. Computed anew, a padding would fix the size of the batch.
    signal = n.meta["val"]
    image = w.known(n, lambda: signal.unsqueeze(_HEIGHT), target, *args, **kwargs)
    return w.known(n, lambda: signal, aten.squeeze.dim, image, _HEIGHT)


def _beside(value: Any, other: int) -> Any:
    """Return an argument of a window for images: ``other`` for the axis of size 1, then that of the length."""
    if isinstance(value, str):
        return value
    return [other, value[0] if isinstance(value, (list, tuple)) else value]


def _conv(w: Rewriter, n: Any) -> fx.Node | None:
    weight, bias, stride, padding, dilation, groups = given(n, None, None, 1, 0, 1, 1)
    if _rank(n.args[0]) != 3:
        return None
    window = _beside(stride, 1), _beside(padding, 0), _beside(dilation, 1)
    return _signal(w, n, conv1d, _image(w, n, n.args[0]), weight, bias, *window, groups)


def _conv_transpose(w: Rewriter, n: Any) -> fx.Node | None:
    weight, bias, stride, padding, extra, groups, dilation = given(n, None, None, 1, 0, 0, 1, 1)
    if _rank(n.args[0]) != 3:
        return None
    window = _beside(stride, 1), _beside(padding, 0), _beside(extra, 0)
    return _signal(w, n, conv_transpose1d, _image(w, n, n.args[0]), weight, bias, *window, groups, _beside(dilation, 1))


def _max_pool(w: Rewriter, n: Any) -> fx.Node | None:
    kernel, stride, padding, dilation, ceil = given(n, None, None, 0, 1, False)
    if _rank(n.args[0]) != 3:
        return None
    window = [_beside(kernel, 1), _beside(stride or kernel, 1), _beside(padding, 0), _beside(dilation, 1)]
    return _signal(w, n, aten.max_pool2d.default, _image(w, n, n.args[0]), *window, ceil)


def _avg_pool(w: Rewriter, n: Any) -> fx.Node | None:
    kernel, stride, padding, ceil, include = given(n, None, None, 0, False, True)
    if _rank(n.args[0]) != 3:
        return None
    window = [_beside(kernel, 1), _beside(stride or kernel, 1), _beside(padding, 0)]
    return _signal(w, n, aten.avg_pool2d.default, _image(w, n, n.args[0]), *window, ceil, include)


def _adaptive(w: Rewriter, n: Any) -> fx.Node | None:
    (size,) = given(n, None)
    if _rank(n.args[0]) != 3:
        return None
    return _signal(w, n, aten.adaptive_avg_pool2d.default, _image(w, n, n.args[0]), [1, *size])


def _mean(w: Rewriter, n: Any) -> fx.Node | None:
    axes, keep = given(n, None, False)
    if not _is_image(n.args[0]) or [a % 3 for a in axes or ()] != [_HEIGHT]:
        return None
    mean = w.call(n, aten.mean.dim, n.args[0].args[0], [2, 3], keep)
    return w.call(n, aten.squeeze.dim, mean, _HEIGHT) if keep else mean


def _pad(w: Rewriter, n: Any) -> fx.Node | None:
    amounts, mode, value = given(n, None, "constant", None)
    if n.target is aten.constant_pad_nd.default:
        (amounts, value), mode = given(n, None, 0), "constant"
    if _rank(n.args[0]) != 3 or len(amounts) != 2 or mode != "constant":
        return None
    return _signal(w, n, aten.constant_pad_nd.default, _image(w, n, n.args[0]), amounts, value or 0)


def _batch_norm(w: Rewriter, n: Any) -> fx.Node | None:
    return _signal(w, n, n.target, _image(w, n, n.args[0]), *n.args[1:], **n.kwargs) if _rank(n.args[0]) == 3 else None


def _elementwise(w: Rewriter, n: Any) -> fx.Node | None:
    """Apply an elementwise operator to images where one of its signals is one. A parameter among them leaves it as it is."""
    tensors = n.all_input_nodes
    if not any(map(_is_image, tensors)) or not all(_rank(t) == 3 and t.op == "call_function" for t in tensors):
        return None
    images = {t: _image(w, n, t) for t in tensors}
    args, kwargs = fx.node.map_arg((n.args, n.kwargs), images.__getitem__)
    return _signal(w, n, n.target, *args, **kwargs)


def _cat(w: Rewriter, n: Any) -> fx.Node | None:
    (axis,) = given(n, 0)
    if not all(map(_is_image, n.args[0])):
        return None
    axis %= 3
    return _signal(w, n, n.target, [x.args[0] for x in n.args[0]], axis + (axis >= _HEIGHT))


_FUNCTIONS: tuple[Any, ...] = (
    aten.add.Tensor, aten.mul.Tensor, aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default,
    aten.clamp_min.default, aten.clamp_max.default, aten.sigmoid.default, aten.tanh.default, aten.silu.default,
    aten.gelu.default, aten.hardsigmoid.default, aten.hardswish.default, aten.leaky_relu.default, aten.elu.default,
    aten.selu.default, aten.softplus.default, aten.mish.default, aten.exp.default, aten.sqrt.default, aten.rsqrt.default,
    aten.abs.default, aten.neg.default, aten.square.default, aten.pow.Tensor_Scalar,
)  # fmt: skip

CONV1D: dict[Any, Rewrite] = {
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv_transpose1d.default: _conv_transpose,
    aten.max_pool1d.default: _max_pool,
    aten.avg_pool1d.default: _avg_pool,
    aten.adaptive_avg_pool1d.default: _adaptive,
    aten.mean.dim: _mean,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.batch_norm.default: _batch_norm,
    aten.cat.default: _cat,
    **dict.fromkeys(_FUNCTIONS, _elementwise),
}

"""The rules of operators with windows: convolutions, pooling, up-sampling."""

from __future__ import annotations

from typing import Any

import torch

from qat.arithmetic.accumulators import bilinear
from qat.planning.targets import TARGETS

from .builder import Builder, Rule
from .match import Match, argument, for_axes, shape_of
from .per_channel import scaled
from .reductions import padded_maxima, windows

aten = torch.ops.aten

#: The largest integer that the weights of all targets can hold.
SMALLEST_LIMIT = min(target.weight_qmax for target in TARGETS.values())


#: The kind of a convolution, by the number of its axes.
_KINDS = {1: "conv2d", 2: "conv2d", 3: "conv3d"}


def _sides(value: Any, count: int) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) for p in for_axes(value, count))


def _conv(b: Builder, n: Any) -> Match | None:
    """A convolution over one axis (of a signal, see :mod:`qat.graph.decompose.conv1d`), two or three."""
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    if params is None or b.tensors[params["weight"]].ndim != len(shape_of(n)):  # of one sample without a batch
        return None
    kernel = b.tensors[params["weight"]].shape[2:]
    count = len(kernel)
    strides, dilations = (for_axes(argument(n, i, name, 1), count) for i, name in ((3, "stride"), (5, "dilation")))
    padding, groups = argument(n, 4, "padding", 0), int(argument(n, 6, "groups", 1))
    if padding == "same":  # stride 1 only; the odd element is at the end
        total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        both = tuple((t // 2, t - t // 2) for t in total)
    else:
        both = _sides(0 if padding == "valid" else padding, count)
    depthwise = count < 3 and groups == shape_of(n.args[0])[1] and groups > 1
    attrs = {"strides": strides, "padding": both, "dilations": dilations, "groups": groups, "channel_axis": 0}
    return Match("depthwise_conv2d" if depthwise else _KINDS[count], [n.args[0]], params, attrs)


def why_float(n: Any) -> str:
    """Return what keeps a node of these rules from an integer kernel, in words; empty where that is not known."""
    if n.target not in (aten.conv_transpose1d.default, aten.conv_transpose2d.input):
        return ""
    if max(for_axes(argument(n, 7, "dilation", 1), 1)) > 1:
        return "a transposed convolution with dilation has no integer kernel"
    if argument(n, 6, "groups", 1) != 1:
        return "a transposed convolution in groups has no integer kernel, unless each channel is a group with one output"
    return ""


def _conv_transpose(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    if params is None or b.tensors[params["weight"]].ndim != len(shape_of(n)):
        return None
    inputs, per_group, *kernel = b.tensors[params["weight"]].shape
    groups, dilations = int(argument(n, 6, "groups", 1)), for_axes(argument(n, 7, "dilation", 1), len(kernel))
    if max(dilations) > 1 or (groups > 1 and (groups, per_group) != (inputs, 1)):  # the outputs lie along no axis of the weight
        return None
    cut, extra = (for_axes(argument(n, i, name, 0), len(kernel)) for i, name in ((4, "padding"), (5, "output_padding")))
    attrs = {
        "strides": for_axes(argument(n, 3, "stride", 1), len(kernel)),
        "padding": tuple((c, c - e) for c, e in zip(cut, extra, strict=True)),
        "dilations": dilations,
        "groups": groups,
        "channel_axis": 1 if groups == 1 else 0,
    }
    return Match("conv_transpose2d", [n.args[0]], params, attrs)


def _max_pool(count: int) -> Rule:
    """Return the rule of a max pooling over ``count`` axes."""

    def rule(b: Builder, n: Any) -> Match | None:
        kernel = for_axes(n.args[1], count)
        if max(for_axes(argument(n, 4, "dilation", 1), count)) > 1 or len(shape_of(n)) != count + 2 or not b.is_operand(n):
            return None
        ceil = argument(n, 5, "ceil_mode", False)
        return _pool("max_pool2d", n, kernel, _sides(argument(n, 3, "padding", 0), count), ceil)

    return rule


def _padded_maxima(b: Builder, n: Any) -> Match | None:
    x, kernel, strides, padding = n.args
    attrs = {"kernel": kernel, "strides": strides, "padding": tuple(padding)}
    return Match("max_pool2d", [x], {}, attrs) if b.is_operand(n) else None


def _pool(kind: str, n: Any, kernel: tuple[int, ...], padding: tuple[tuple[int, int], ...], ceil: bool) -> Match | None:
    """Return the match of a pooling that leaves its padding out."""
    strides = for_axes(argument(n, 2, "stride", None) or kernel, len(kernel))
    if ceil:  # the end gets as much as the last windows reach
        ends = [
            _end_of_last_window(*of_axis)
            for of_axis in zip(*(shape_of(node)[2:] for node in (n.args[0], n)), strides, kernel, padding, strict=True)
        ]
        known = [end for end in ends if end is not None]
        if len(known) < len(kernel):
            return None
        padding = tuple((first, end) for (first, _), end in zip(padding, known, strict=True))
    return Match(kind, [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": padding})


def _end_of_last_window(size: Any, out: Any, stride: int, kernel: int, padding: tuple[int, int]) -> int | None:
    """Return the padding at an axis' end with which a pooling that rounds down gives what one that rounds up does.

    None where the axis is of any size and no padding does so for all sizes.
    """
    first, last = padding
    if isinstance(size, int) and isinstance(out, int):
        return max((out - 1) * stride + kernel - size - first, 0)
    # A window may then begin in the padding, which PyTorch leaves out, unless it reaches back to the last element.
    return last + stride - 1 if last + stride <= kernel else None


def _avg_pool(count: int) -> Rule:
    """Return the rule of an average pooling over ``count`` axes."""

    def rule(b: Builder, n: Any) -> Match | None:
        kernel, padding = for_axes(n.args[1], count), _sides(argument(n, 3, "padding", 0), count)
        counted = any(map(any, padding)) and argument(n, 5, "count_include_pad", True)
        if counted or argument(n, 6, "divisor_override", None) or len(shape_of(n)) != count + 2:
            return None
        return _pool("avg_pool2d", n, kernel, padding, argument(n, 4, "ceil_mode", False))

    return rule


def _adaptive_avg_pool(count: int) -> Rule:
    """Return the rule of a mean over ``count`` axes, or of a pooling where all windows have one size."""

    def rule(b: Builder, n: Any) -> Match | None:
        if len(shape_of(n)) != count + 2:
            return None
        if set(for_axes(n.args[1], count)) == {1}:
            return Match("mean", [n.args[0]], {}, {"axes": tuple(range(2, 2 + count)), "keepdims": True})
        kernel = tuple(windows(n.args[0], shape_of(n)[2:]))
        attrs = {"kernel": kernel, "strides": kernel, "padding": _sides(0, count)}
        return Match("avg_pool2d", [n.args[0]], {}, attrs) if kernel else None

    return rule


def _upsample_bilinear2d(b: Builder, n: Any) -> Match | None:
    """Up-sampling by integer factors whose weights are integers of 7 bits."""
    size, corners, factors = argument(n, 1, "output_size", None), n.args[2], argument(n, 3, "scale_factors", None)
    sizes = shape_of(n.args[0])[2:]
    if factors is None:
        if not all(isinstance(a, int) and isinstance(z, int) for a, z in zip(sizes, size, strict=True)):
            return None
        factors = [z / a for a, z in zip(sizes, size, strict=True)]
    integers = int(factors[0]), int(factors[1])
    if corners or list(integers) != list(factors) or min(integers) < 1 or bilinear(integers)[0].max() > SMALLEST_LIMIT:
        return None
    return Match("upsample_bilinear2d", [n.args[0]], {}, {"factors": integers})


def _scaled(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1])
    if params is None:
        return None
    window = {"strides": (1, 1), "padding": _sides(0, 2), "dilations": (1, 1)}
    attrs = {**window, "groups": shape_of(n)[1], "channel_axis": 0}
    return Match("depthwise_conv2d", [n.args[0]], params, attrs)


WINDOWS: dict[Any, Rule] = {
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.conv3d.default: _conv,
    aten.conv3d.padding: _conv,
    aten.conv_transpose1d.default: _conv_transpose,
    aten.conv_transpose2d.input: _conv_transpose,
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    padded_maxima: _padded_maxima,
    aten.avg_pool1d.default: _avg_pool(1),
    aten.avg_pool2d.default: _avg_pool(2),
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool(1),
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool(2),
    aten.upsample_bilinear2d.vec: _upsample_bilinear2d,
    scaled: _scaled,
}

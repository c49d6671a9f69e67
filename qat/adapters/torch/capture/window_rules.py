"""The rules of operators with windows: convolutions, pooling, up-sampling."""

from __future__ import annotations

from typing import Any

import torch

from qat.arithmetic.accumulators import bilinear
from qat.planning.targets import TARGETS

from .builder import Builder, Rule
from .conv1d import conv1d, conv_transpose1d
from .match import Match, argument, pair, shape_of
from .per_channel import scaled
from .reductions import windows

aten = torch.ops.aten

#: The largest integer that the weights of all targets can hold.
SMALLEST_LIMIT = min(target.weight_qmax for target in TARGETS.values())


def _each(value: Any) -> tuple[int, ...]:
    """Return an argument of a window of three axes."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return tuple(int(v) for v in (values * 3 if len(values) == 1 else values))


def _symmetric(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    h, w = pair(value)
    return ((h, h), (w, w))


def _conv2d(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    if params is None or len(shape_of(n)) != 4:
        return None
    padding = argument(n, 4, "padding", 0)
    strides, dilations = pair(argument(n, 3, "stride", 1)), pair(argument(n, 5, "dilation", 1))
    groups = int(argument(n, 6, "groups", 1))
    if padding == "same":  # stride 1 only; the odd element is at the end
        window = (1, *b.tensors[params["weight"]].shape)[-2:]  # a conv1d's window has one axis only
        total = [d * (k - 1) for d, k in zip(dilations, window, strict=True)]
        both = tuple((t // 2, t - t // 2) for t in total)
    else:
        both = _symmetric(0 if padding == "valid" else padding)
    kind = "depthwise_conv2d" if groups == shape_of(n.args[0])[1] and groups > 1 else "conv2d"
    attrs = {"strides": strides, "padding": both, "dilations": dilations, "groups": groups, "channel_axis": 0}
    return Match(kind, [n.args[0]], params, attrs)


def _conv3d(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    if params is None or len(shape_of(n)) != 5:
        return None
    strides, dilations = (_each(argument(n, i, name, 1)) for i, name in ((3, "stride"), (5, "dilation")))
    padding = argument(n, 4, "padding", 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, b.tensors[params["weight"]].shape[2:], strict=True)]
        both = tuple((t // 2, t - t // 2) for t in total)
    else:
        both = tuple((p, p) for p in _each(0 if padding == "valid" else padding))
    attrs = {"strides": strides, "padding": both, "dilations": dilations, "channel_axis": 0}
    return Match("conv3d", [n.args[0]], params, {**attrs, "groups": int(argument(n, 6, "groups", 1))})


def _conv_transpose2d(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    groups, dilations = int(argument(n, 6, "groups", 1)), pair(argument(n, 7, "dilation", 1))
    if params is None or len(shape_of(n)) != 4 or dilations != (1, 1):
        return None
    inputs, per_group = b.tensors[params["weight"]].shape[:2]
    if groups > 1 and (groups, per_group) != (inputs, 1):  # the output channels lie along no axis of the weight
        return None
    cut, extra = pair(argument(n, 4, "padding", 0)), pair(argument(n, 5, "output_padding", 0))
    attrs = {
        "strides": pair(argument(n, 3, "stride", 1)),
        "padding": tuple((c, c - e) for c, e in zip(cut, extra, strict=True)),
        "dilations": dilations,
        "groups": groups,
        "channel_axis": 1 if groups == 1 else 0,
    }
    return Match("conv_transpose2d", [n.args[0]], params, attrs)


def _max_pool2d(b: Builder, n: Any) -> Match | None:
    kernel = pair(n.args[1])
    if pair(argument(n, 4, "dilation", 1)) != (1, 1) or len(shape_of(n)) != 4:
        return None
    strides, padding = pair(argument(n, 2, "stride", None) or kernel), _symmetric(argument(n, 3, "padding", 0))
    if argument(n, 5, "ceil_mode", False):  # padding never wins: the end gets as much as the last windows reach
        sizes = [shape_of(node)[2:] for node in (n.args[0], n)]
        if not all(isinstance(size, int) for pair in sizes for size in pair):
            return None
        ends = [
            max((out - 1) * s + k - size - p, 0) for size, out, s, k, (p, _) in zip(*sizes, strides, kernel, padding, strict=True)
        ]
        padding = ((padding[0][0], ends[0]), (padding[1][0], ends[1]))
    return Match("max_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": padding})


def _avg_pool2d(b: Builder, n: Any) -> Match | None:
    kernel, padding = pair(n.args[1]), _symmetric(argument(n, 3, "padding", 0))
    if padding != _symmetric(0) or argument(n, 6, "divisor_override", None) or len(shape_of(n)) != 4:
        return None
    strides = pair(argument(n, 2, "stride", None) or kernel)
    left = [
        (size - k) % s if isinstance(size, int) else 1
        for size, k, s in zip(shape_of(n.args[0])[2:], kernel, strides, strict=True)
    ]
    if argument(n, 4, "ceil_mode", False) and any(left):  # windows at the edge would have another size
        return None
    return Match("avg_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": padding})


def _adaptive_avg_pool2d(b: Builder, n: Any) -> Match | None:
    """A mean over the image, or a pooling where all windows have one size."""
    if len(shape_of(n)) != 4:
        return None
    if pair(n.args[1]) == (1, 1):
        return Match("mean", [n.args[0]], {}, {"axes": (2, 3), "keepdims": True})
    kernel = tuple(windows(n.args[0], shape_of(n)[2:]))
    return (
        Match("avg_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": kernel, "padding": _symmetric(0)}) if kernel else None
    )


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
    window = {"strides": (1, 1), "padding": _symmetric(0), "dilations": (1, 1)}
    attrs = {**window, "groups": shape_of(n)[1], "channel_axis": 0}
    return Match("depthwise_conv2d", [n.args[0]], params, attrs)


WINDOWS: dict[Any, Rule] = {
    aten.conv2d.default: _conv2d,
    aten.conv2d.padding: _conv2d,
    conv1d: _conv2d,
    aten.conv3d.default: _conv3d,
    aten.conv3d.padding: _conv3d,
    aten.conv_transpose2d.input: _conv_transpose2d,
    conv_transpose1d: _conv_transpose2d,
    aten.max_pool2d.default: _max_pool2d,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    aten.upsample_bilinear2d.vec: _upsample_bilinear2d,
    scaled: _scaled,
}

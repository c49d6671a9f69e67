"""The table from ATen operators to the neutral graph's kinds: one function an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import fx

from qat.adapters.torch.channels import scaled
from qat.adapters.torch.moves import MOVES
from qat.adapters.torch.products import product, softmax
from qat.adapters.torch.reductions import windows
from qat.adapters.torch.rows import conv1d, conv_transpose1d

if TYPE_CHECKING:
    from qat.adapters.torch.trace import Builder

aten = torch.ops.aten


class Match(NamedTuple):
    """What an operator is: its kind, its operands (nodes; numbers where a constant may stand), parameters and attributes."""

    kind: str
    inputs: Sequence[fx.Node | float]
    params: Mapping[str, str] = {}
    attrs: Mapping[str, Any] = {}


#: Returns None for an operator that this adapter leaves float.
Rule = Callable[["Builder", Any], "Match | None"]


def argument(node: Any, index: int, name: str, default: Any) -> Any:
    """Return an argument of a captured node, wherever it stands."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the shape of a captured node's tensor; sizes that are not fixed are symbols."""
    return tuple(node.meta["val"].shape)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, (tuple, list)) else (int(value), int(value))


def _each(value: Any) -> tuple[int, ...]:
    """Return an argument of a window of three axes."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return tuple(int(v) for v in (values * 3 if len(values) == 1 else values))


def _symmetric(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    h, w = _pair(value)
    return ((h, h), (w, w))


def _conv2d(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    if params is None or len(shape_of(n)) != 4:
        return None
    padding = argument(n, 4, "padding", 0)
    strides, dilations = _pair(argument(n, 3, "stride", 1)), _pair(argument(n, 5, "dilation", 1))
    groups = int(argument(n, 6, "groups", 1))
    if padding == "same":  # stride 1 only; the odd element is at the end
        window = (1, *b.tensors[params["weight"]].shape)[-2:]  # that of a row has one axis only
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
    groups, dilations = int(argument(n, 6, "groups", 1)), _pair(argument(n, 7, "dilation", 1))
    if params is None or len(shape_of(n)) != 4 or dilations != (1, 1):
        return None
    inputs, per_group = b.tensors[params["weight"]].shape[:2]
    if groups > 1 and (groups, per_group) != (inputs, 1):  # whose output channels lie along no axis of the weight
        return None
    cut, extra = _pair(argument(n, 4, "padding", 0)), _pair(argument(n, 5, "output_padding", 0))
    attrs = {
        "strides": _pair(argument(n, 3, "stride", 1)),
        "padding": tuple((c, c - e) for c, e in zip(cut, extra, strict=True)),
        "dilations": dilations,
        "groups": groups,
        "channel_axis": 1 if groups == 1 else 0,
    }
    return Match("conv_transpose2d", [n.args[0]], params, attrs)


def _linear(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    return None if params is None else Match("dense", [n.args[0]], params, {"channel_axis": 0})


def _batch_norm(b: Builder, n: Any) -> Match | None:
    params = b.params(gamma=n.args[1], beta=n.args[2], mean=n.args[3], variance=n.args[4])
    if params is None or "mean" not in params or n.args[5]:
        return None
    return Match("batch_norm", [n.args[0]], params, {"epsilon": float(n.args[7]), "axis": 1})


def _binary(kind: str) -> Rule:
    def rule(b: Builder, n: Any) -> Match | None:
        operands = [n.args[0], n.args[1]]
        if n.kwargs.get("alpha", 1) != 1 or not all(b.is_operand(a) for a in operands) or all(map(b.is_constant, operands)):
            return None
        return Match(kind, operands if _larger_first(*operands) else operands[::-1])

    return rule


def _larger_first(x: fx.Node | float, y: fx.Node | float) -> bool:
    """Whether two operands are in the order of which ONNX Runtime keeps the arithmetic.

    Its kernel for an addition takes the operand that is broadcast along the innermost axis as the second one, which decides
    the order of two roundings (element_wise_ops.h, ProcessBroadcastSpanFuncs; MlasQLinearAdd).
    """
    # A symbol stands for any size and must not be compared.
    one = [[isinstance(d, int) and d == 1 for d in shape_of(a)] if isinstance(a, fx.Node) else [] for a in (x, y)]
    for left, right in zip(*(reversed(s) for s in one), strict=False):
        if left != right:
            return right
    return len(one[0]) >= len(one[1])


def _concat(b: Builder, n: Any) -> Match | None:
    rank = len(shape_of(n))
    if not all(b.is_operand(x) for x in n.args[0]) or all(map(b.is_constant, n.args[0])):
        return None
    return Match("concat", list(n.args[0]), {}, {"axis": int(argument(n, 1, "dim", 0)) % rank})


def _max_pool2d(b: Builder, n: Any) -> Match | None:
    kernel = _pair(n.args[1])
    if _pair(argument(n, 4, "dilation", 1)) != (1, 1) or len(shape_of(n)) != 4:
        return None
    strides, padding = _pair(argument(n, 2, "stride", None) or kernel), _symmetric(argument(n, 3, "padding", 0))
    if argument(n, 5, "ceil_mode", False):  # padding never wins: there is as much of it as the last windows reach
        sizes = [shape_of(node)[2:] for node in (n.args[0], n)]
        if not all(isinstance(size, int) for pair in sizes for size in pair):
            return None
        ends = [
            max((out - 1) * s + k - size - p, 0) for size, out, s, k, (p, _) in zip(*sizes, strides, kernel, padding, strict=True)
        ]
        padding = ((padding[0][0], ends[0]), (padding[1][0], ends[1]))
    return Match("max_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": padding})


def _avg_pool2d(b: Builder, n: Any) -> Match | None:
    kernel, padding = _pair(n.args[1]), _symmetric(argument(n, 3, "padding", 0))
    plain = padding == ((0, 0), (0, 0)) and not argument(n, 4, "ceil_mode", False)
    if not plain or argument(n, 6, "divisor_override", None) or len(shape_of(n)) != 4:
        return None
    strides = _pair(argument(n, 2, "stride", None) or kernel)
    return Match("avg_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": padding})


def _adaptive_avg_pool2d(b: Builder, n: Any) -> Match | None:
    """A mean over the image, or pooling where all windows are of one size."""
    if len(shape_of(n)) != 4:
        return None
    if _pair(n.args[1]) == (1, 1):
        return Match("mean", [n.args[0]], {}, {"axes": (2, 3), "keepdims": True})
    kernel = tuple(windows(n.args[0], shape_of(n)[2:]))
    return (
        Match("avg_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": kernel, "padding": _symmetric(0)}) if kernel else None
    )


def _mean(b: Builder, n: Any) -> Match | None:
    rank = len(shape_of(n.args[0]))
    axes = tuple(sorted(int(a) % rank for a in (argument(n, 1, "dim", None) or ())))
    if rank != 4 or axes != (2, 3):
        return None
    return Match("mean", [n.args[0]], {}, {"axes": axes, "keepdims": bool(argument(n, 2, "keepdim", False))})


def _reshape(b: Builder, n: Any) -> Match | None:
    """Any operator that only changes the shape, as long as the batch stays first."""
    before, after = shape_of(n.args[0]), shape_of(n)
    if not before or not after or before[0] != after[0] or any(not isinstance(d, int) for d in after[1:]):
        return _move(b, n)
    return Match("reshape", [n.args[0]], {}, {"shape": (-1, *(int(d) for d in after[1:]))})


def _pad(b: Builder, n: Any) -> Match | None:
    amounts, value = list(n.args[1]), argument(n, 3, "value", None)
    mode = n.args[2] if len(n.args) > 2 and isinstance(n.args[2], str) else n.kwargs.get("mode", "constant")
    if n.target is aten.constant_pad_nd.default:
        mode, value = "constant", argument(n, 2, "value", 0)
    if mode != "constant":
        return _move(b, n)
    if (value or 0) != 0 or len(shape_of(n)) != 4 or len(amounts) > 4 or min(amounts) < 0:
        return None
    amounts += [0] * (4 - len(amounts))
    return Match("pad", [n.args[0]], {}, {"padding": ((amounts[2], amounts[3]), (amounts[0], amounts[1]))})


def _move(b: Builder, n: Any) -> Match | None:
    """An operator that only moves values: of one tensor that is no parameter, by constants, and the batch stays whole."""
    if not all(b.keeps_batch(size) for node in (n.args[0], n) for size in shape_of(node)):
        return None
    moved = [a for a in n.all_input_nodes if is_tensor(a) and a.name not in b.owner]
    return Match("move", moved, {}, {"target": str(n.target)}) if moved == [n.args[0]] and b.is_operand(n) else None


def _index(b: Builder, n: Any) -> Match | None:
    """Indexing by one constant along an axis that is not the batch."""
    indices = [(axis, index) for axis, index in enumerate(n.args[1]) if index is not None]
    return _move(b, n) if len(indices) == 1 and indices[0][0] > 0 else None


def _im2col(b: Builder, n: Any) -> Match | None:
    return _move(b, n) if _pair(argument(n, 3, "padding", 0)) == (0, 0) else None  # other places would hold 0, not its integer


def _product(b: Builder, n: Any) -> Match | None:
    operands = list(n.args[:2])
    fit = all(b.is_operand(a) for a in operands) and not all(map(b.is_constant, operands))
    return Match("matmul", operands, {}, {"transpose_b": n.args[2]}) if fit else None


def _softmax(b: Builder, n: Any) -> Match | None:
    length = shape_of(n)[-1]
    # Of one element it is 1, which ONNX Runtime's table overflows at.
    return Match("softmax", [n.args[0]], {}, {"beta": n.args[1]}) if isinstance(length, int) and length > 1 else None


def _embedding(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[0])
    return None if params is None or b.is_constant(n.args[1]) else Match("embedding", [n.args[1]], params)


def _relu(kind: str) -> Rule:
    return lambda b, n: Match(kind, [n.args[0]])


def _clamp(b: Builder, n: Any) -> Match | None:
    low, high = (argument(n, 1, "min", None), argument(n, 2, "max", None))
    if n.target is aten.hardtanh.default:
        low, high = argument(n, 1, "min_val", -1), argument(n, 2, "max_val", 1)
    if (low, high) in ((0, 6), (0, None)):
        return Match("relu6" if high else "relu", [n.args[0]])
    if any(isinstance(limit, fx.Node) for limit in (low, high)):
        return None
    return Match("clamp", [n.args[0]], {}, {"low": low, "high": high})


def _limit(side: str) -> Rule:
    """A maximum or minimum with one number that is not trained."""

    def rule(b: Builder, n: Any) -> Match | None:
        operands = sorted(n.args[:2], key=b.is_constant)
        x, limit = operands
        if b.is_constant(x) or not b.is_constant(limit) or shape_of(n) != shape_of(x):
            return None
        value = b.tensors[b.owner[limit.name]]
        if value.numel() != 1 or value.requires_grad:
            return None
        return Match("clamp", [x], {}, {"low": None, "high": None, side: float(value)})

    return rule


def _prelu(b: Builder, n: Any) -> Match | None:
    """A slope for all channels is a number from here on: the function is a table of integers."""
    name = b.param(n.args[1])
    if name is None or b.tensors[name].numel() != 1:
        return None
    return Match("leaky_relu", [n.args[0]], {}, {"alpha": float(b.tensors[name])})


def _scaled(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1])
    if params is None:
        return None
    window = {"strides": (1, 1), "padding": _symmetric(0), "dilations": (1, 1)}
    attrs = {**window, "groups": shape_of(n)[1], "channel_axis": 0}
    return Match("depthwise_conv2d", [n.args[0]], params, attrs)


def _function(kind: str, **attrs: tuple[int, str, Any]) -> Rule:
    """A function of one tensor; ``attrs`` says where an argument stands, what it is called and what it is by default."""
    return lambda b, n: Match(kind, [n.args[0]], {}, {name: argument(n, *where) for name, where in attrs.items()})


def _gelu(b: Builder, n: Any) -> Match | None:
    return Match("gelu", [n.args[0]], {}, {"approximate": n.kwargs.get("approximate", "none") == "tanh"})


def _elu(b: Builder, n: Any) -> Match | None:
    plain = argument(n, 2, "scale", 1) == 1 and argument(n, 3, "input_scale", 1) == 1
    return Match("elu", [n.args[0]], {}, {"alpha": float(argument(n, 1, "alpha", 1))}) if plain else None


def _softplus(b: Builder, n: Any) -> Match | None:
    # Beyond the threshold torch returns the input, which float32 cannot tell from the function.
    plain = argument(n, 1, "beta", 1) == 1 and argument(n, 2, "threshold", 20) >= 20
    return Match("softplus", [n.args[0]]) if plain else None


def _power(b: Builder, n: Any) -> Match | None:
    kind = {2: "square", 0.5: "sqrt", -0.5: "rsqrt"}.get(n.args[1])
    return None if kind is None else Match(kind, [n.args[0]])


RULES: dict[Any, Rule] = {
    aten.conv2d.default: _conv2d,
    aten.conv2d.padding: _conv2d,
    conv1d: _conv2d,
    aten.conv3d.default: _conv3d,
    aten.conv3d.padding: _conv3d,
    aten.conv_transpose2d.input: _conv_transpose2d,
    conv_transpose1d: _conv_transpose2d,
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.add.Tensor: _binary("add"),
    aten.mul.Tensor: _binary("mul"),
    product: _product,
    softmax: _softmax,
    aten.embedding.default: _embedding,
    aten.cat.default: _concat,
    aten.relu.default: _relu("relu"),
    aten.relu6.default: _relu("relu6"),
    aten.hardtanh.default: _clamp,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: lambda b, n: Match("clamp", [n.args[0]], {}, {"low": None, "high": n.args[1]}),
    aten.sigmoid.default: _function("sigmoid"),
    aten.tanh.default: _function("tanh"),
    aten.silu.default: _function("silu"),
    aten.gelu.default: _gelu,
    aten.hardsigmoid.default: _function("hard_sigmoid"),
    aten.hardswish.default: _function("hard_swish"),
    aten.leaky_relu.default: _function("leaky_relu", alpha=(1, "negative_slope", 0.01)),
    aten.elu.default: _elu,
    aten.selu.default: _function("selu"),
    aten.softplus.default: _softplus,
    aten.mish.default: _function("mish"),
    aten.exp.default: _function("exp"),
    aten.sqrt.default: _function("sqrt"),
    aten.rsqrt.default: _function("rsqrt"),
    aten.abs.default: _function("abs"),
    aten.neg.default: _function("neg"),
    aten.square.default: _function("square"),
    aten.pow.Tensor_Scalar: _power,
    aten.max_pool2d.default: _max_pool2d,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    aten.mean.dim: _mean,
    aten.flatten.using_ints: _reshape,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.squeeze.dims: _reshape,
    aten.squeeze.dim: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.unflatten.int: _reshape,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.unflatten.int: _reshape,
    aten.index.Tensor: _index,
    aten.im2col.default: _im2col,
    aten.maximum.default: _limit("low"),
    aten.max.other: _limit("low"),
    aten.minimum.default: _limit("high"),
    aten.min.other: _limit("high"),
    aten.prelu.default: _prelu,
    scaled: _scaled,
    **dict.fromkeys(MOVES, _move),
}


def is_tensor(node: fx.Node) -> bool:
    """Whether a captured node gives one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)

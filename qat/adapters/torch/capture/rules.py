"""The table of rules: from each ATen operator to a function that returns the kind it is in the neutral graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from qat.arithmetic.masks import reach

from .attention import product, softmax
from .attention_masks import masked
from .builder import Builder, Rule
from .match import Match, argument, for_axes, is_tensor, padding_of, shape_of
from .move_ops import MOVES
from .window_rules import WINDOWS

aten = torch.ops.aten


def _linear(b: Builder, n: Any) -> Match | None:
    params = b.params(weight=n.args[1], bias=argument(n, 2, "bias", None))
    return None if params is None else Match("dense", [n.args[0]], params, {"channel_axis": 0})


def _batch_norm(b: Builder, n: Any) -> Match | None:
    params = b.params(gamma=n.args[1], beta=n.args[2], mean=n.args[3], variance=n.args[4])
    if params is None or "mean" not in params or n.args[5]:
        return None
    return Match("batch_norm", [n.args[0]], params, {"epsilon": float(n.args[7]), "axis": 1})


def _layer_norm(b: Builder, n: Any) -> Match | None:
    params = b.params(gamma=argument(n, 2, "weight", None), beta=argument(n, 3, "bias", None))
    axes = _last_axes(n)
    if params is None or axes is None:
        return None
    return Match("layer_norm", [n.args[0]], params, axes | {"epsilon": float(argument(n, 4, "eps", 1e-5))})


def _group_norm(b: Builder, n: Any) -> Match | None:
    params = b.params(gamma=argument(n, 2, "weight", None), beta=argument(n, 3, "bias", None))
    return None if params is None else _in_groups(n, params, int(n.args[1]), argument(n, 4, "eps", 1e-5))


def _instance_norm(b: Builder, n: Any) -> Match | None:
    """A norm of each channel's values; by the statistics of training, where there are some, it is a BatchNorm."""
    x, gamma, beta, mean, variance, of_input, _, epsilon, *_ = n.args
    params = b.params(gamma=gamma, beta=beta, **({} if of_input else {"mean": mean, "variance": variance}))
    if params is None:
        return None
    if not of_input:
        return Match("batch_norm", [x], params, {"epsilon": float(epsilon), "axis": 1})
    channels = shape_of(x)[1]
    return _in_groups(n, params, channels, epsilon) if isinstance(channels, int) else None


def _in_groups(n: Any, params: Mapping[str, str], groups: int, epsilon: float) -> Match | None:
    """Return a norm in groups of channels; None where a size is free, without which a kernel cannot count."""
    if not all(isinstance(size, int) for size in shape_of(n)[1:]):
        return None
    return Match("group_norm", [n.args[0]], params, {"epsilon": float(epsilon), "groups": groups, "axis": 1})


def _rms_norm(b: Builder, n: Any) -> Match | None:
    params, axes, epsilon = b.params(gamma=argument(n, 2, "weight", None)), _last_axes(n), argument(n, 3, "eps", None)
    if params is None or axes is None:
        return None
    attrs = {"epsilon": torch.finfo(torch.float32).eps if epsilon is None else epsilon, "least": 0.0}
    return Match("rms_norm", [n.args[0]], params, axes | attrs)


def _last_axes(n: Any) -> dict[str, Any] | None:
    """Return the axes that a normalization reads, where it reads several; None where their merging meets a free size."""
    shape, count = shape_of(n), len(n.args[1])
    if count == 1:
        return {}
    known = all(isinstance(size, int) for size in shape[1:])
    return {"axes": tuple(range(len(shape) - count, len(shape)))} if known and count < len(shape) else None


def _binary(kind: str) -> Rule:
    def rule(b: Builder, n: Any) -> Match | None:
        operands = [n.args[0], n.args[1]]
        if n.kwargs.get("alpha", 1) != 1 or not all(b.is_operand(a) for a in operands) or all(map(b.is_constant, operands)):
            return None
        return Match(kind, operands if _larger_first(*operands) else operands[::-1])

    return rule


def _larger_first(x: fx.Node | float, y: fx.Node | float) -> bool:
    """Return whether two operands stand in the order that ONNX Runtime adds them in.

    Its kernel takes the operand that is broadcast along the innermost axis as the second one, which decides
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


def _mean(b: Builder, n: Any) -> Match | None:
    """A mean over any axes but the batch; the reshape to an image can leave one size free."""
    shape, dims = shape_of(n.args[0]), argument(n, 1, "dim", None) or ()
    axes = tuple(sorted(int(a) % len(shape) for a in dims)) if shape else ()
    kept = [a for a in range(1, len(shape)) if a not in axes]
    if not axes or axes[0] == 0 or not b.is_operand(n.args[0]) or b.is_constant(n.args[0]) or argument(n, 3, "dtype", None):
        return None
    free_kept, free = ([a for a in part if not isinstance(shape[a], int)] for part in (kept, axes))
    if (len(shape), axes) != (4, (2, 3)) and (free_kept and (free or len(kept) > 1)):
        return None
    return Match("mean", [n.args[0]], {}, {"axes": axes, "keepdims": bool(argument(n, 2, "keepdim", False))})


def _reshape(b: Builder, n: Any) -> Match | None:
    """Any operator that only changes the shape; the first axis stays the batch, or holds it folded with other axes."""
    before, after = shape_of(n.args[0]), shape_of(n)
    if not before or not after or any(not isinstance(d, int) for d in after[1:]):
        return _move(b, n)
    attrs: dict[str, Any] = {"shape": (-1, *(int(d) for d in after[1:]))}
    if before[0] != after[0] and b.is_constant(n.args[0]) and b.is_operand(n.args[0]):
        attrs["folds"] = True
    elif before[0] != after[0]:
        if isinstance(after[0], int) or any(not isinstance(d, int) for d in before[1:]) or not b.is_operand(n):
            return _move(b, n)
        attrs["folds"] = True
    return Match("reshape", [n.args[0]], {}, attrs)


def _pad(b: Builder, n: Any) -> Match | None:
    amounts, value, mode = padding_of(n)
    if mode != "constant":
        return _move(b, n)
    count = len(shape_of(n)) - 2
    if value != 0 or count not in (1, 2) or len(amounts) > 2 * count or min(amounts) < 0:
        return None
    amounts += [0] * (2 * count - len(amounts))
    return Match("pad", [n.args[0]], {}, {"padding": tuple((amounts[i], amounts[i + 1]) for i in range(2 * count - 2, -1, -2))})


def _move(b: Builder, n: Any) -> Match | None:
    """A data movement: of one tensor that is no parameter, by constants and sizes."""
    moved = [a for a in n.all_input_nodes if is_tensor(a) and a.name not in b.owner]
    return Match("move", moved, {}, {"target": str(n.target)}) if moved == [n.args[0]] and b.is_operand(n) else None


def _extreme(b: Builder, n: Any) -> Match | None:
    """A maximum over axes."""
    moved, rank = _move(b, n), len(shape_of(n.args[0]))
    axes = argument(n, 1, "dim", ()) or range(rank)
    computes = {
        "computes": "maximum_over",
        "axes": tuple(a % rank for a in axes),
        "keepdims": bool(argument(n, 2, "keepdim", False)),
    }
    return None if moved is None else moved._replace(attrs={**moved.attrs, **computes})


def _expand(b: Builder, n: Any) -> Match | None:
    moved = _move(b, n)
    return (
        moved._replace(attrs={**moved.attrs, "computes": "spread"})
        if moved and len(shape_of(n)) == len(shape_of(n.args[0]))
        else moved
    )


def _transpose(b: Builder, n: Any) -> Match | None:
    """A permutation of the axes after the batch; one that also moves the batch keeps its framework's implementation."""
    rank, moved = len(shape_of(n)), _move(b, n)
    axes = list(range(rank))
    if n.target is aten.permute.default:
        axes = [int(a) % rank for a in n.args[1]]
    else:
        first, second = (int(a) % rank for a in n.args[1:3])
        axes[first], axes[second] = second, first
    return moved if moved is None or axes[0] else Match("transpose", moved.inputs, {}, {"axes": tuple(axes)})


def _index(b: Builder, n: Any) -> Match | None:
    """Indexing by one constant, along any axis but the batch; or of the lines of a weight, as an embedding has them."""
    indices = [(axis, index) for axis, index in enumerate(n.args[1]) if index is not None]
    if len(indices) == 1 and indices[0][0] == 0 and (found := _lines(b, n.args[0], indices[0][1])) is not None:
        return found._replace(attrs={"wraps": True})
    return _move(b, n) if len(indices) == 1 and indices[0][0] > 0 else None


def _im2col(b: Builder, n: Any) -> Match | None:
    return (
        _move(b, n) if not any(for_axes(argument(n, 3, "padding", 0), 2)) else None
    )  # padding would hold 0, not the integer of 0


def _product(b: Builder, n: Any) -> Match | None:
    operands = list(n.args[:2])
    fit = all(b.is_operand(a) for a in operands) and not all(map(b.is_constant, operands))
    return Match("matmul", operands, {}, {"transpose_b": n.args[2]}) if fit else None


def _softmax(b: Builder, n: Any) -> Match | None:
    length = shape_of(n)[-1]
    # The softmax of one element is 1, at which ONNX Runtime's table overflows.
    return Match("softmax", [n.args[0]], {}, {"beta": n.args[1]}) if isinstance(length, int) and length > 1 else None


def _masked(b: Builder, n: Any) -> Match | None:
    length = shape_of(n)[-1]
    return Match("mask", [n.args[0], n.args[1]], {}, {"reach": reach(length if isinstance(length, int) else None)})


def _embedding(b: Builder, n: Any) -> Match | None:
    return _lines(b, n.args[0], n.args[1])


def _lines(b: Builder, weight: Any, indices: Any) -> Match | None:
    params = b.params(weight=weight)
    if params is None or len(shape_of(weight)) != 2 or b.is_constant(indices):
        return None
    return Match("embedding", [indices], params) if indices.meta["val"].dtype in (torch.int32, torch.int64) else None


def _index_select(b: Builder, n: Any) -> Match | None:
    return (_lines(b, n.args[0], n.args[2]) if n.args[1] == 0 else None) or _move(b, n)


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
    """Return the rule of a maximum or minimum with one number that is not trained."""

    def rule(b: Builder, n: Any) -> Match | None:
        operands = sorted(n.args[:2], key=b.is_constant)
        x, limit = operands
        if b.is_constant(x) or not b.is_constant(limit) or shape_of(n) != shape_of(x) or not b.is_operand(x):
            return None
        value = b.tensors[b.owner[limit.name]]
        if value.numel() != 1 or value.requires_grad:
            return None
        return Match("clamp", [x], {}, {"low": None, "high": None, side: float(value)})

    return rule


def _minimum(b: Builder, n: Any) -> Match | None:
    return _limit("high")(b, n) or _binary("minimum")(b, n)


def _maximum(b: Builder, n: Any) -> Match | None:
    return _limit("low")(b, n) or _binary("maximum")(b, n)


def _prelu(b: Builder, n: Any) -> Match | None:
    """One slope for all channels becomes a number, and the function a table of integers. It is not trained any more."""
    name = b.param(n.args[1])
    if name is None or b.tensors[name].numel() != 1:
        return None
    return Match("leaky_relu", [n.args[0]], {}, {"alpha": b.tensors[name].item()})


def _function(kind: str, **attrs: tuple[int, str, Any]) -> Rule:
    """Return the rule of a function of one tensor; ``attrs`` holds the position, the name and the default of each argument."""
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


def _computes(b: Builder, n: Any, inputs: Sequence[fx.Node], computes: str, **attrs: Any) -> Match | None:
    """An operator without a kind that may be a piece of a function: :mod:`qat.graph.recognition`."""
    if not all(is_tensor(x) and x.name not in b.owner for x in inputs) or len(set(inputs)) < len(inputs):
        return None
    return Match("float", inputs, {}, {"target": str(n.target), "computes": computes, **attrs})


def _divide(b: Builder, n: Any) -> Match | None:
    """A division; one by constants is a multiplication."""
    x, y = n.args
    divisor = b.fixed(y) if b.is_operand(x) and not b.is_constant(x) and shape_of(x) == shape_of(n) else None
    if divisor is not None and bool((divisor != 0).all()):
        return Match("mul", [x, b.derived(n, 1.0 / divisor.double())])
    return _computes(b, n, [x, y], "div") if all(map(b.is_operand, (n, x, y))) else None


def _spread(computes: str, correction: bool) -> Rule:
    """Return the rule of a variance or of a standard deviation over axes."""

    def rule(b: Builder, n: Any) -> Match | None:
        axes, less = argument(n, 1, "dim", None), argument(n, 2, "correction" if correction else "unbiased", 1)
        if not axes:
            return None
        attrs = {"correction": 1 if less is None else less, "keepdims": bool(argument(n, 3, "keepdim", False))}
        return _computes(b, n, [n.args[0]], computes, axes=tuple(axes), **attrs)

    return rule


def _norm(b: Builder, n: Any) -> Match | None:
    """A vector norm of order 2 over axes."""
    order, axes = argument(n, 1, "ord", 2), argument(n, 2, "dim", None)
    if order not in (2, None) or axes is None or argument(n, 4, "dtype", None) is not None:
        return None
    axes = tuple(axes) if isinstance(axes, (list, tuple)) else (axes,)
    return _computes(b, n, [n.args[0]], "norm", axes=axes, keepdims=bool(argument(n, 3, "keepdim", False))) if axes else None


def _compared(computes: str) -> Rule:
    """Return the rule of a comparison with a number."""
    return lambda b, n: _computes(b, n, [n.args[0]], computes, number=float(n.args[1]))


def _where(b: Builder, n: Any) -> Match | None:
    return _computes(b, n, n.args, "where") if all(isinstance(x, fx.Node) for x in n.args) else None


_POWERS = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


def _power(b: Builder, n: Any) -> Match | None:
    x, exponent = n.args
    if exponent in _POWERS:
        return Match(_POWERS[exponent], [x])
    return Match("power", [x], {}, {"exponent": float(exponent)}) if b.is_operand(n) and b.is_operand(exponent) else None


RULES: dict[Any, Rule] = {
    **WINDOWS,
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.rms_norm.default: _rms_norm,
    aten.add.Tensor: _binary("add"),
    aten.mul.Tensor: _binary("mul"),
    product: _product,
    softmax: _softmax,
    masked: _masked,
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
    aten.div.Tensor: _divide,
    aten.var.correction: _spread("variance", True),
    aten.var.dim: _spread("variance", False),
    aten.std.correction: _spread("deviation", True),
    aten.std.dim: _spread("deviation", False),
    aten.linalg_vector_norm.default: _norm,
    aten.norm.ScalarOpt_dim: _norm,
    aten.gt.Scalar: _compared("greater"),
    aten.ge.Scalar: _compared("greater_equal"),
    aten.lt.Scalar: _compared("less"),
    aten.le.Scalar: _compared("less_equal"),
    aten.where.self: _where,
    aten.erf.default: _function("erf"),
    aten.special_erf.default: _function("erf"),
    aten.special_expm1.default: _function("expm1"),
    aten.special_log1p.default: _function("log1p"),
    aten.special_expit.default: _function("sigmoid"),
    aten.log.default: _function("log"),
    aten.log1p.default: _function("log1p"),
    aten.expm1.default: _function("expm1"),
    aten.reciprocal.default: _function("reciprocal"),
    aten.abs.default: _function("abs"),
    aten.neg.default: _function("neg"),
    aten.square.default: _function("square"),
    aten.pow.Tensor_Scalar: _power,
    aten.mean.dim: _mean,
    aten.flatten.using_ints: _reshape,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.reshape_as.default: _reshape,
    aten.view_as.default: _reshape,
    aten.squeeze.dims: _reshape,
    aten.squeeze.dim: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.unflatten.int: _reshape,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.index.Tensor: _index,
    aten.im2col.default: _im2col,
    aten.maximum.default: _maximum,
    aten.max.other: _maximum,
    aten.minimum.default: _minimum,
    aten.min.other: _minimum,
    aten.prelu.default: _prelu,
    **dict.fromkeys(MOVES, _move),
    aten.index_select.default: _index_select,
    aten.amax.default: _extreme,
    aten.expand.default: _expand,
    aten.permute.default: _transpose,
    aten.transpose.int: _transpose,
}

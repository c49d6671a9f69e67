"""Rewriting of the captured graph: each operation gets one form, with one output, of the several that PyTorch has."""

from __future__ import annotations

import math
import operator
import sys
from typing import Any

import torch
from torch import fx

from .attention import PRODUCTS
from .batch_sizes import are_equal
from .embedding_bags import BAGS, bags_of_one_size
from .per_channel import PER_CHANNEL
from .recurrent_cells import CELLS
from .reductions import REDUCTIONS, adaptive_max
from .resizing import RESIZING
from .rewriter import Rewrite, Rewriter, fake_mode, given, reshape
from .sample_kernels import SAMPLE_KERNELS
from .truth_values import TRUTH_VALUES

aten = torch.ops.aten


def rewrite(graph: fx.Graph) -> None:
    """Apply :data:`REWRITES` to a graph, in place."""
    writer = Rewriter(graph, fake_mode(graph))
    for node in list(graph.nodes):
        rules = REWRITES.get(node.target, ()) if node.op == "call_function" else ()
        replacement = next((made for rule in rules if (made := rule(writer, node)) is not None), None)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    graph.eliminate_dead_code()  # splits whose parts were all rewritten, and parts that no operator reads


def _is_float(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta["val"], torch.Tensor) and node.meta["val"].dtype == torch.float32


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sub(w: Rewriter, n: Any) -> fx.Node | None:
    """Write ``a - b`` as ``a + (-b)``."""
    a, b = n.args[:2]
    if not _is_float(n) or n.kwargs.get("alpha", 1) != 1 or not (_is_float(b) or _is_number(b)):
        return None
    return w.call(n, aten.add.Tensor, a, -b if _is_number(b) else w.call(n, aten.neg.default, b))


def _rsub(w: Rewriter, n: Any) -> fx.Node | None:
    """Write ``number - x`` as ``-x + number``."""
    x, number = n.args[:2]
    if not _is_float(n) or not _is_number(number) or len(n.args) > 2:
        return None
    return w.call(n, aten.add.Tensor, w.call(n, aten.neg.default, x), number)


def _div(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a division by a number as a multiplication."""
    x, number = n.args[:2]
    if not _is_float(n) or not _is_number(number) or number == 0 or n.kwargs:
        return None
    return w.call(n, aten.mul.Tensor, x, 1.0 / number)


def _pool_divisor(w: Rewriter, n: Any) -> fx.Node | None:
    """Write an average pooling with a divisor of its own as a scaled one without: torch.onnx ignores the divisor."""
    divisor = n.args[6] if len(n.args) > 6 else None
    if divisor is None or n.args[4]:  # with ceil_mode the windows at the edge have other sizes
        return None
    height, width = (n.args[1] * 2)[:2]
    pooled = w.call(n, n.target, *n.args[:5], True)
    return w.call(n, aten.mul.Tensor, pooled, height * width / divisor)


def _same(w: Rewriter, n: Any) -> fx.Node:
    """Replace an operator that does nothing in eval mode by its input."""
    node: fx.Node = n.args[0]
    return node


def _pad(w: Rewriter, n: Any) -> fx.Node | None:
    """Drop a padding by nothing: Swin pads images to whole windows, and those of the usual sizes consist of such."""
    x: fx.Node = n.args[0]
    return x if all(isinstance(amount, int) and amount == 0 for amount in n.args[1]) else None


def _cat(w: Rewriter, n: Any) -> fx.Node | None:
    """Leave out what is empty of the parts of a concat, such as keys and values of no tokens before; one part is itself."""
    kept = [part for part in n.args[0] if 0 not in [size for size in part.meta["val"].shape if isinstance(size, int)]]
    if len(kept) == 1:
        alone: fx.Node = kept[0]
        return alone
    return None if not kept or len(kept) == len(n.args[0]) else w.call(n, n.target, kept, *n.args[1:])


def _cast(w: Rewriter, n: Any) -> fx.Node | None:
    """Drop a cast to the type that the tensor has; name the type that is another tensor's, which is then not read."""
    x, made = n.args[0], n.meta["val"]
    if isinstance(x, fx.Node) and x.meta["val"].dtype == made.dtype:
        return x
    return w.call(n, aten.to.dtype, x, made.dtype) if n.target in (aten.type_as.default, aten.to.other) else None


def _filled(number: float | None = None) -> Rewrite:
    """Return the rule that writes a tensor of one number, and of another tensor's type, without that tensor.

    ``number``: the operator's own; None where it is its last argument.
    """

    def rule(w: Rewriter, n: Any) -> fx.Node | None:
        made, value = n.meta["val"], n.args[-1] if number is None else number
        if not all(isinstance(size, int) for size in made.shape) or not _is_number(value):
            return None
        return w.call(n, aten.full.default, list(made.shape), value, dtype=made.dtype, device=made.device)

    return rule


def _view(w: Rewriter, n: Any) -> None:
    """Make a view a reshape to known sizes. The copy that a view may need is left out (:func:`_same`); a reshape needs none."""
    n.target = aten.reshape.default
    made = zip(n.args[1], n.meta["val"].shape, strict=True)
    n.args = (n.args[0], [have if size == -1 and isinstance(have, int) else size for size, have in made])


def _item(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a part of a split as a slice, one of an unbind as a selection, and the values of a maximum as ``amax``.

    A BatchNorm that PyTorch's own pass for in-place operators has taken apart becomes one again.
    """
    source, index = n.args
    if source.target not in _PARTS:
        return None
    x = source.args[0]
    if source.target is _BATCH_NORM:
        made = w.call(n, aten.batch_norm.default, *source.args[:5], False, *source.args[5:], True) if index == 0 else None
        return made and (PER_CHANNEL[aten.batch_norm.default](w, made) or made)
    if source.target is aten.unbind.int:
        return w.call(n, aten.select.int, x, *given(source, 0), index)
    if source.target in _EXTREMES:
        axis, keep = given(source, None, False)
        made = w.call(n, _EXTREMES[source.target], x, [axis], keep) if index == 0 else None
        return made and (TRUTH_VALUES[made.target](w, made) or made)
    if source.target in BAGS:
        return bags_of_one_size(w, n, source) if index == 0 else None
    if source.target in _ADAPTIVE_MAX:
        return adaptive_max(w, n, source) if index == 0 else None
    _, axis = given(source, None, 0)
    sizes = [part.shape[axis] for part in source.meta["val"]]
    size = sum(sizes[:index]), sum(sizes[: index + 1])
    if len(sizes) == 1:  # a split into one part, such as that of a batch into smaller ones
        whole: fx.Node = x
        return whole
    if not all(isinstance(s, int) for s in sizes):
        return _of_equal_parts(w, n, x, len(sizes), index) if axis == 0 and are_equal(sizes) else None
    return w.call(n, aten.slice.Tensor, x, axis, *size)


def _of_equal_parts(w: Rewriter, n: Any, x: fx.Node, parts: int, index: int) -> fx.Node | None:
    """Choose one of the equal parts of a batch, such as the images of two inputs that were put together."""
    sizes = x.meta["val"].shape[1:]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return w.call(n, aten.select.int, w.call(n, aten.reshape.default, x, [parts, -1, *sizes]), 0, index)


_EXTREMES: dict[Any, Any] = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
_ADAPTIVE_MAX = (aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default)
_BATCH_NORM = aten._native_batch_norm_legit_no_training.default
_PARTS = (
    _BATCH_NORM, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int,
    *_EXTREMES, *_ADAPTIVE_MAX, *BAGS,
)  # fmt: skip


def _glu(w: Rewriter, n: Any) -> fx.Node:
    """Write one half times the sigmoid of the other half."""
    x, (axis,) = n.args[0], given(n, -1)
    half = n.meta["val"].shape[axis]
    value, gate = (w.call(n, aten.slice.Tensor, x, axis, i * half, (i + 1) * half) for i in (0, 1))
    return w.call(n, aten.mul.Tensor, value, w.call(n, aten.sigmoid.default, gate))


def _expand_as(w: Rewriter, n: Any) -> fx.Node | None:
    """Expand to known sizes; the batch is the tensor's own."""
    x, sizes = n.args[0], n.meta["val"].shape[1:]
    if x.meta["val"].ndim != len(sizes) + 1 or isinstance(x.meta["val"].shape[0], int):
        return None
    return w.call(n, aten.expand.default, x, [-1, *sizes]) if all(isinstance(size, int) for size in sizes) else None


def _spread(w: Rewriter, n: Any) -> None:
    """Read what an operand was expanded from, where the other one has all elements: the operator expands it itself."""
    operands = [x for x in n.args[:2] if isinstance(x, fx.Node)]
    for x, other in zip(operands, reversed(operands), strict=True):
        if x.target is aten.expand.default and len(operands) == 2 and _same_sizes(other, n) and _same_sizes(x, n):
            n.replace_input_with(x, x.args[0])
            return


def _same_sizes(x: fx.Node, y: fx.Node) -> bool:
    sizes = [node.meta["val"].shape for node in (x, y)]
    return len(sizes[0]) == len(sizes[1]) and all(map(are_equal, zip(*sizes, strict=True)))


def _stack(w: Rewriter, n: Any) -> fx.Node:
    """Write a stack as a concatenation along a new axis."""
    axis = given(n, 0)[0] % len(n.meta["val"].shape)
    return w.call(n, aten.cat.default, [w.call(n, aten.unsqueeze.default, x, axis) for x in n.args[0]], axis)


def _copy(w: Rewriter, n: Any) -> fx.Node | None:
    """Write what an assignment stores as the value itself, where it needs no other size and no other type."""
    into, value = n.args[:2]
    same = isinstance(value, fx.Node) and all(
        getattr(into.meta["val"], what) == getattr(value.meta["val"], what) for what in ("shape", "dtype")
    )
    return value if same else None


def _slice_scatter(w: Rewriter, n: Any) -> fx.Node | None:
    """Write an assignment to a slice as the concatenation of what is before it, the new values, and what is after it."""
    x, (value, axis, first, last, step) = n.args[0], given(n, None, 0, None, None, 1)
    size = x.meta["val"].shape[axis]
    if first in (None, 0) and last in (None, sys.maxsize) and step == 1:  # the whole of an axis, which may be the batch
        same: fx.Node = value
        return same
    first, last = 0 if first is None else first, size if last is None else last
    if step != 1 or not all(isinstance(number, int) for number in (size, first, last)):
        return None
    first, last, _ = slice(first, last).indices(size)
    return _replaced(w, n, x, value, axis, first, last)


def _select_scatter(w: Rewriter, n: Any) -> fx.Node | None:
    """Write an assignment to one index of an axis as one to a slice."""
    x, value, axis, index = n.args
    size = x.meta["val"].shape[axis]
    if not all(isinstance(number, int) for number in (size, index)):
        return None
    return _replaced(w, n, x, w.call(n, aten.unsqueeze.default, value, axis), axis, index % size, index % size + 1)


def _replaced(w: Rewriter, n: Any, x: fx.Node, value: fx.Node, axis: int, first: int, last: int) -> fx.Node:
    """Return ``x`` with ``value`` from ``first`` to ``last`` along an axis."""
    size = x.meta["val"].shape[axis]
    before = [w.call(n, aten.slice.Tensor, x, axis, 0, first)] if first else []
    after = [w.call(n, aten.slice.Tensor, x, axis, last, size)] if last < size else []
    return w.call(n, aten.cat.default, [*before, value, *after], axis) if before or after else value


def _view_as(w: Rewriter, n: Any) -> fx.Node | None:
    """Reshape to known sizes; the batch is the tensor's own."""
    x, sizes = n.args[0], list(n.meta["val"].shape[1:])
    known = all(isinstance(size, int) for size in sizes) and x.meta["val"].shape[:1] == n.meta["val"].shape[:1]
    return reshape(w, n, x, sizes) if known else None


def _numel(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a number of elements as a product of sizes: formats, and float blocks, know these."""
    (x,) = n.args
    sizes = x.meta["val"].shape
    free = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    if not free:
        return None
    found = w.call(n, aten.sym_size.int, x, free[0])
    for axis in free[1:]:
        found = w.call(n, operator.mul, found, w.call(n, aten.sym_size.int, x, axis))
    known = math.prod(size for size in sizes if isinstance(size, int))
    return found if known == 1 else w.call(n, operator.mul, found, known)


def _whole_quotient(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a quotient that is a size of an input, ``int(windows.shape[0] / 4)``, as that size, which a float block knows."""
    value = n.meta["val"]
    for node in w.graph.find_nodes(op="placeholder"):
        for axis, size in enumerate(node.meta["val"].shape if isinstance(node.meta["val"], torch.Tensor) else ()):
            if isinstance(size, torch.SymInt) and isinstance(value, torch.SymInt):
                symbols = {*size.node.expr.free_symbols, *value.node.expr.free_symbols}
                if len(symbols) == 1 and are_equal((size, value)):
                    return w.call(n, aten.sym_size.int, node, axis)
    return None


def _scatter(w: Rewriter, n: Any) -> fx.Node | None:
    """Send no more than there are indices, and write means as sums and their counts: so an .onnx scatters."""
    x, axis, indices, source, *way = n.args
    sizes = zip(source.meta["val"].shape, indices.meta["val"].shape, strict=True)
    for place, (have, taken) in enumerate(sizes):
        if isinstance(taken, int) and have != taken:
            source = w.call(n, aten.slice.Tensor, source, place, 0, taken)
    if way != ["mean"]:
        return None if source is n.args[3] else w.call(n, n.target, x, axis, indices, source, *way, **n.kwargs)
    one, each = (w.call(n, aten.full_like.default, tensor, 1) for tensor in (x, source))
    total = w.call(n, n.target, x, axis, indices, source, "sum", **n.kwargs)
    count = w.call(n, n.target, one, axis, indices, each, "sum", **n.kwargs)
    return w.call(n, aten.div.Tensor_mode, total, count, rounding_mode=None if _is_float(n) else "floor")


_CASTS = (
    aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default, aten.type_as.default,
)  # fmt: skip

_PLAIN: dict[Any, Rewrite] = {
    aten.copy.default: _copy,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    operator.getitem: _item,
    aten.sym_numel.default: _numel,
    math.trunc: _whole_quotient,
    **dict.fromkeys((aten.scatter.src, aten.scatter_add.default, aten.scatter_reduce.two), _scatter),
    aten.stack.default: _stack,
    aten.glu.default: _glu,
    aten.expand_as.default: _expand_as,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten.view_as.default: _view_as,
    aten.reshape_as.default: _view_as,
    **dict.fromkeys(_CASTS, _cast),
    aten.new_full.default: _filled(),
    aten.full_like.default: _filled(),
    **dict.fromkeys((aten.new_zeros.default, aten.zeros_like.default), _filled(0)),
    **dict.fromkeys((aten.new_ones.default, aten.ones_like.default), _filled(1)),
    aten.sub.Tensor: _sub,
    aten.rsub.Scalar: _rsub,
    aten.div.Tensor: _div,
    aten.avg_pool2d.default: _pool_divisor,
    aten.dropout.default: _same,
    aten.feature_dropout.default: _same,
    aten.alpha_dropout.default: _same,
    aten.feature_alpha_dropout.default: _same,
    aten.clone.default: _same,
    aten.cat.default: _cat,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.contiguous.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.lift_fresh_copy.default: _same,
}

_SPREADING: dict[Any, Rewrite] = dict.fromkeys(
    (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default), _spread
)

_TABLES = (_SPREADING, TRUTH_VALUES, PER_CHANNEL, REDUCTIONS, PRODUCTS, RESIZING, CELLS, SAMPLE_KERNELS, _PLAIN)

#: The rules of each operator, in order; the first that applies is used.
REWRITES: dict[Any, tuple[Rewrite, ...]] = {
    target: tuple(table[target] for table in _TABLES if target in table) for table in _TABLES for target in table
}

"""Masks of attention: where a mask does nothing but hide scores, the softmax's integers need not hold it.

A mask shifts scores by thousands, or to minus infinity: one scale for the mask and the scores would leave the scores no integers.
Each of the ways to hide scores becomes one function, :func:`masked`, which chooses between a score and the least integer. Where a
mask may also shift scores that it does not hide, all that it takes part in stays float. A bias, of positions for example, is no
mask, whether it is learned, a buffer or computed by a layer: its addition runs in integers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, fx

from qat.arithmetic.masks import FAR, HIDDEN, HIDES, MAKES_MASK, SHOWN, TAKES_PART, only_hides, only_limits, reach

from .attention import product, softmax
from .constants import known_constants
from .move_ops import MOVES
from .rewriter import Rewriter, fake_mode, given

aten = torch.ops.aten

#: Operators that only change the shape of the scores, their first operand.
_SHAPES = {aten.reshape.default, aten.view.default, aten.unsqueeze.default, aten.squeeze.dim, *MOVES}
#: Of these, those that do the same to a mask of as many axes, and those that do to one of the same sizes.
_ORDERS = (aten.permute.default, aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim)
_SIZES = (aten.reshape.default, aten.view.default)
_FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)
_CHOICES = (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
_OF_TWO: dict[Any, Callable[[float, float], float]] = {
    aten.add.Tensor: operator.add, aten.mul.Tensor: operator.mul, aten.minimum.default: min, aten.maximum.default: max,
}  # fmt: skip
_TRUTH = frozenset([0.0, 1.0])
#: More different numbers than these are not followed.
_FEW = 8
#: What these compute of activations is a bias of positions (SAM, BoTNet), and no mask.
_LAYERS = (product, aten.linear.default, aten.einsum.default, aten.matmul.default, aten.conv1d.default, aten.conv2d.default)
_CASTS = (aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout)


def masked(scores: Tensor, shown: Tensor) -> Tensor:
    """Return the scores where ``shown`` is positive, elsewhere a number of which a softmax makes 0."""
    return torch.where(shown > 0, scores, HIDDEN)


def hide_masked(graph: fx.Graph, owner: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[fx.Node, str]:
    """Write the masks that only hide scores as :func:`masked`, in place, before each softmax.

    Elsewhere (scores that leave the model, ``log_softmax``) the sum of scores and a mask stays float. Returns these sums, each
    with the reason.

    Args:
        graph: the captured graph, rewritten.
        owner: the name of the parameter or buffer behind each placeholder.
        tensors: every parameter and buffer by name.
    """
    known = known_constants(graph, owner, tensors)
    inputs = {node for node in graph.nodes if node.op == "placeholder" and node.name not in owner}
    writer = _Writer(graph, _Values(known, inputs))
    for node in list(graph.nodes):
        if node.target is softmax:
            writer.hide_before(node)
    graph.eliminate_dead_code()
    return {node: TAKES_PART for node in graph.nodes if node.target is aten.add.Tensor and writer.values.add_mask(node)}


class _Writer(Rewriter):
    """Replaces the operators that hide scores.

    Attributes:
        values: says which numbers a tensor may hold.
        made: the masks that were written, by what they were made of, and whether that shows scores.
    """

    def __init__(self, graph: fx.Graph, values: _Values) -> None:
        super().__init__(graph, fake_mode(graph))
        self.values = values
        self.made: dict[tuple[fx.Node, bool | None], fx.Node] = {}

    def hide_before(self, node: Any) -> None:
        """Replace the operators that hide scores on the way to a softmax.

        A hidden score must stay the least number up to the softmax: a sum or a factor behind a mask moves before it. A mask of
        rows of another length says nothing of the softmax's rows.
        """
        x = node.args[0]
        length = x.meta["val"].shape[-1]
        while _is_read_once(x) and not _differ(x.meta["val"].shape[-1:], [length]):
            found = self._masking(x) or self._masking_before(x)
            if found is not None:
                scores, shown = found
                x.replace_all_uses_with(self.call(x, masked, scores, shown))
                self.graph.erase_node(x)
                x = scores
            elif x.target in _SHAPES:
                x = x.args[0]
            elif (limited := self._limited(x)) is not None:
                x.replace_all_uses_with(limited)
                self.graph.erase_node(x)
                x = limited
            elif (joined := self._masked_part(x)) is not None:
                x.replace_all_uses_with(joined)
                self.graph.erase_node(x)
                x = joined.args[0]
            else:
                return

    def _masking_before(self, n: Any) -> tuple[fx.Node, fx.Node] | None:
        """Return the same of an operator that moves before the mask: a sum, a product by a positive number, another shape.

        A mask counts along the axis of the softmax how far hidden scores have to lie, so that none may change that behind it.
        """
        if n.target in (*_ORDERS, *_SIZES):
            return self._reordered(n)
        if n.target is not aten.add.Tensor and not (_by_number(n) and n.args[1] > 0):
            return None
        for place in (0, 1):
            inner = n.args[place]
            if _is_read_once(inner):
                found = self._masking(inner) or self._masking_before(inner)
                if found is not None:
                    args = list(n.args)
                    args[place] = found[0]
                    return self.call(n, n.target, *args, **n.kwargs), found[1]
        return None

    def _reordered(self, n: Any) -> tuple[fx.Node, fx.Node] | None:
        """Return the same of a change of shape of scores that were masked before: it moves there, and the mask changes too."""
        inner, *order = n.args
        found = (self._masking(inner) or self._masking_before(inner)) if _is_read_once(inner) else None
        if found is None:
            return None
        scores, shown = found
        if n.target in _SIZES and scores.meta["val"].shape != shown.meta["val"].shape:
            return None
        for _ in range(scores.meta["val"].ndim - shown.meta["val"].ndim):
            shown = self._behind(shown, n, aten.unsqueeze.default, 0)
        return self.call(n, n.target, scores, *order), self._behind(shown, n, n.target, *order)

    def _limited(self, n: Any) -> fx.Node | None:
        """Return the scores of an operator that limits them to numbers of their type, which no score but a hidden one leaves."""
        ways = {aten.clamp.default: n.args[:1], aten.clamp_min.default: n.args[:1]}
        ways |= dict.fromkeys((aten.maximum.default, aten.max.other), n.args)
        for scores in ways.get(n.target, ()):
            limits = [arg for arg in n.args if arg is not scores]
            values = [self.values.of(limit) for limit in limits if not isinstance(limit, fx.Node) or limit.meta["val"].ndim == 0]
            if len(values) == 1 and values[0] and max(values[0]) <= -FAR and isinstance(scores, fx.Node):
                return scores
        return None

    def _masked_part(self, n: Any) -> fx.Node | None:
        """Return a concat of scores and numbers of a model's own (attention sinks) of which one part was masked, masked whole."""
        parts, axis = (n.args[0], *given(n, 0)) if n.target is aten.cat.default else ((), 0)
        for place, part in enumerate(parts):
            found = self._masking(part) if _is_read_once(part) else None
            if found is not None and axis % part.meta["val"].ndim == part.meta["val"].ndim - 1:
                sizes = [p.meta["val"].shape[-1] for p in parts]
                if found[1].meta["val"].shape[-1] != sizes[place]:
                    return None
                joined = self.call(n, n.target, [*parts[:place], found[0], *parts[place + 1 :]], axis)
                around = [sum(sizes[:place]), sum(sizes[place + 1 :])]
                return self.call(n, masked, joined, self._behind(found[1], n, aten.constant_pad_nd.default, around, SHOWN))
        return None

    def _masking(self, n: Any) -> tuple[fx.Node, fx.Node] | None:
        """Return the scores, and where they are shown, of an operator that hides scores; None for any other operator."""
        found = self._choosing(n, n)
        if n.target is aten.minimum.default:
            found = next(((a, self._shown_by_sum(n, b)) for a, b in (n.args, n.args[::-1]) if self.values.limit(b)), None)
        elif found is None and n.target is aten.add.Tensor and _is_plain_sum(n):
            for scores, mask in (n.args[:2], n.args[1::-1]):
                if self.values.only_hide(mask):
                    return scores, self._shown_by_sum(n, mask)
                shifting = self._shifting(n, mask) if _leads_to_product(scores) else None
                if shifting is not None:
                    return self.call(n, aten.add.Tensor, scores, shifting[0]), shifting[1]
        return found

    def _shifting(self, n: fx.Node, mask: Any) -> tuple[fx.Node, fx.Node] | None:
        """Return the bias, and where scores are shown, of a mask that shifts the scores that it shows, as T5's does."""
        if mask.target is aten.add.Tensor and _is_plain_sum(mask):
            for bias, hiding in (mask.args[:2], mask.args[1::-1]):
                if self.values.only_hide(hiding):
                    return bias, self._shown_by_sum(n, hiding)
        return self._choosing(n, mask)

    def _choosing(self, n: fx.Node, choice: Any) -> tuple[fx.Node, fx.Node] | None:
        """Return what is kept, and where, of an operator that puts a number that hides scores in other places."""
        if choice.target in _FILLS:
            scores, hidden, value = choice.args[:3]
            return (scores, self._shown(n, hidden, False)) if self.values.hide(value) else None
        if choice.target in _CHOICES:
            condition, a, b = choice.args
            for scores, value, kept in ((a, b, True), (b, a, False)):
                if self.values.hide(value) and isinstance(scores, fx.Node) and not self.values.hide(scores):
                    return scores, self._shown(n, condition, kept)
        return None

    def _shown(self, n: fx.Node, condition: fx.Node, kept: bool) -> fx.Node:
        """Write a condition as numbers: positive where scores are shown, which is where it is ``kept``."""
        if (condition, kept) not in self.made:
            sign = 1.0 if kept else -1.0
            real = self._behind(condition, n, aten.to.dtype, torch.float32)
            scaled = self._behind(real, n, aten.mul.Tensor, 2 * sign * SHOWN)
            self.made[condition, kept] = self._behind(scaled, n, aten.add.Tensor, -sign * SHOWN)
        return self.made[condition, kept]

    def _shown_by_sum(self, n: fx.Node, mask: fx.Node) -> fx.Node:
        """Write a mask that is added as numbers: positive where scores are shown."""
        if (mask, None) not in self.made:
            limited = self._behind(mask, n, aten.clamp_min.default, HIDES)  # it may hold minus infinity
            raised = self._behind(limited, n, aten.add.Tensor, -HIDES / 2)
            self.made[mask, None] = self._behind(raised, n, aten.mul.Tensor, SHOWN)
        return self.made[mask, None]

    def _behind(self, source: fx.Node, like: fx.Node, target: Any, *args: Any) -> fx.Node:
        """Add an operator of the scope of ``like`` right behind the one that it reads: several softmaxes share masks."""
        place = source.next
        while place.op in ("placeholder", "get_attr"):
            place = place.next
        made = self.call(place, target, source, *args)
        made.meta = {**like.meta, "val": made.meta["val"]}
        return made


class _Values:
    """Says which numbers a tensor may hold, where those are few: 0 and 1 of a truth value or integer that was cast, and so on.

    Attributes:
        known: the value of each node that follows from constants alone.
        inputs: the model's inputs. One of float32 counts as 0 and 1 where a number multiplies it that only masks have.
    """

    def __init__(self, known: Mapping[fx.Node, Any], inputs: Set[fx.Node]) -> None:
        self.known, self.inputs = known, inputs
        self.found: dict[tuple[fx.Node, bool], frozenset[float]] = {}

    def hide(self, arg: Any) -> bool:
        """Whether every number hides the score that it stands for."""
        values = self.of(arg)
        return bool(values) and max(values) <= HIDES

    def only_hide(self, arg: Any) -> bool:
        """Whether the numbers are added to scores only to hide them."""
        return only_hides(self.of(arg))

    def limit(self, arg: Any) -> bool:
        """Whether a minimum with the numbers only hides scores: each lies far below all scores, or far above."""
        return only_limits(self.of(arg))

    def add_mask(self, n: fx.Node) -> bool:
        """Whether a sum is one of scores and of a mask's far numbers."""
        pairs = (n.args[:2], n.args[1::-1]) if _is_plain_sum(n) else ()
        return any(self.only_hide(mask) and min(self.of(mask)) <= -FAR and not self.of(scores) for scores, mask in pairs)

    def of(self, arg: Any, far: bool = False) -> frozenset[float]:
        """Return the numbers that an operand may hold; none where they are many. ``far``: a mask's number multiplies it."""
        if not isinstance(arg, fx.Node):
            return frozenset([float(arg)]) if isinstance(arg, (int, float)) else frozenset()
        if (arg, far) not in self.found:
            found = self._of_constant(self.known[arg]) if arg in self.known else self._of(arg, far)
            self.found[arg, far] = frozenset() if any(map(math.isnan, found)) else found
        return self.found[arg, far]

    def _of_constant(self, value: Any) -> frozenset[float]:
        different = torch.as_tensor(value).unique()
        return frozenset(different.double().tolist()) if different.numel() <= _FEW else frozenset()

    def _of(self, n: Any, far: bool) -> frozenset[float]:
        if n.op != "call_function":
            return _TRUTH if far and n in self.inputs else frozenset()
        if n.target in _CASTS:
            return self.of(n.args[0], far) if n.args[0].meta["val"].is_floating_point() else _TRUTH
        if n.target in _SHAPES:
            return self.of(n.args[0], far)
        if n.target is aten.neg.default:
            return frozenset(-v for v in self.of(n.args[0], far))
        if n.target is aten.log.default:
            return frozenset(math.log(v) if v else -math.inf for v in self.of(n.args[0], far) if v >= 0)
        if n.target in (aten.clamp.default, aten.clamp_min.default):
            least, *most = given(n, None, None)
            if not isinstance(least, (int, float)) or most not in ([], [None]):
                return frozenset()
            return frozenset(max(v, float(least)) for v in self.of(n.args[0], far or least <= -FAR))
        if n.target in _CHOICES or n.target in _FILLS:
            a, b = (self.of(x, far) for x in (n.args[1:] if n.target in _CHOICES else (n.args[0], n.args[2])))
            return a | b if a and b else frozenset()
        if n.target in _OF_TWO and n.kwargs.get("alpha", 1) == 1:
            far |= n.target is aten.mul.Tensor and any(abs(v) >= FAR for x in n.args[:2] for v in self.of(x))
            a, b = (self.of(x, far) for x in n.args[:2])
            found = frozenset(_OF_TWO[n.target](x, y) for x in a for y in b)
            return found if len(found) <= _FEW else frozenset()
        return frozenset()


def _differ(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether a size that is a number is another one."""
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(sizes, others, strict=False))


def _is_read_once(n: Any) -> bool:
    return isinstance(n, fx.Node) and n.op == "call_function" and len(n.users) == 1


def _is_plain_sum(n: Any) -> bool:
    return n.kwargs.get("alpha", 1) == 1 and all(isinstance(a, fx.Node) for a in n.args[:2])


def _by_number(n: Any) -> bool:
    return n.target is aten.mul.Tensor and not isinstance(n.args[1], fx.Node)


def is_near(constant: Tensor) -> bool:
    """Return whether a bias is trained, or spans no more than the scale of masked scores has to hold, as one of positions may."""
    if constant.requires_grad:
        return True
    if not constant.is_floating_point() or not constant.numel() or not bool(constant.isfinite().all()):
        return False
    return float(constant.max() - constant.min()) <= reach(None)


def beside_masks(graph: fx.Graph, learned: Iterable[str], near: Set[str]) -> dict[fx.Node, str]:
    """Return the operators that a mask keeps float, each with the reason.

    Those are the operators between a product and a softmax where a mask does more than hide scores, and those that only make a
    mask.

    Args:
        graph: the captured graph, after :func:`hide_masked`.
        learned: the names of the nodes that are parameters.
        near: the names of the constants that :func:`is_near`. Each counts as it is: what is computed from one may span far.
    """
    learned, found = frozenset(learned), dict[fx.Node, str]()
    for node in graph.nodes:
        if node.target is softmax:
            chain, others = _to_product(node.args[0])
            if any(getattr(other, "name", "") not in near and not _is_bias(other, learned) for other in others):
                found |= dict.fromkeys([*chain, node], TAKES_PART)
    hidden = {node for node in graph.nodes if node.target is masked and node not in found}
    masks = {node.args[1]: MAKES_MASK for node in hidden}
    found |= {node: reason for node, reason in masks.items() if node.op == "call_function"}
    if found:
        for node in reversed(list(graph.nodes)):
            readers = [found[user] for user in node.users if user in found]
            free = node.op == "call_function" and node.target is not product and node not in found
            if free and readers and len(readers) == len(node.users):
                found[node] = readers[0]
    return found


def _to_product(node: Any) -> tuple[list[fx.Node], list[Any]]:
    """Return the operators from a softmax's input back to a product, and their other operands; both empty without a product."""
    if not isinstance(node, fx.Node):
        return [], []
    if node.target is product:
        return [], []
    ways: list[tuple[Any, list[Any]]] = []
    if node.target in _SHAPES or node.target is masked or _by_number(node):
        ways = [(node.args[0], [])]
    elif node.target is aten.add.Tensor:
        ways = [(node.args[0], [node.args[1]]), (node.args[1], [node.args[0]])]
    elif node.target in _FILLS:
        ways = [(node.args[0], [node.args[1]])]
    elif node.target in _CHOICES:
        ways = [(node.args[1], [node.args[0], node.args[2]]), (node.args[2], [node.args[0], node.args[1]])]
    for scores, others in ways:
        if isinstance(scores, fx.Node) and _leads_to_product(scores):
            chain, more = _to_product(scores)
            return [node, *chain], [*others, *more]
    return [], []


def _leads_to_product(node: fx.Node) -> bool:
    """Return whether additions, scalings, masks and changes of shape lead from a product to a node."""
    if node.target is product:
        return True
    steps = (*_SHAPES, *_FILLS, masked, aten.add.Tensor, aten.mul.Tensor, *_CHOICES)
    return node.target in steps and any(_leads_to_product(a) for a in node.all_input_nodes)


def _is_bias(other: Any, learned: frozenset[str]) -> bool:
    """Return whether an operand is a number, or follows from ``learned`` nodes, results of layers and no other float tensor."""
    if not isinstance(other, fx.Node) or other.name in learned:
        return True
    if other.op == "placeholder":
        return False
    value = other.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return False
    if other.target in _LAYERS:
        return True
    values = [(node, node.meta.get("val")) for node in other.all_input_nodes]
    floats = [node for node, value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return bool(floats) and all(_is_bias(node, learned) for node in floats)

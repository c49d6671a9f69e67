"""Large channels of a norm become even: a factor of the channel moves from the norm into the weights that read it.

The layers after a norm read one scale for all channels, so a few large ones leave the others a few integers. In a transformer
gamma makes such channels. ``W x = (W f) (x / f)`` for any factor of each channel, so gamma and beta may be divided by it, and the
weights that read the channel multiplied by it; a weight has a scale for each output channel, which is hardly wider then. Sources:
Wei et al. 2022, "Outlier Suppression", section 4.1; Xiao et al. 2023, "SmoothQuant", equation 4, with a strength of 0.5.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from .computed_weights import is_computed
from .graph import Graph, Op
from .kinds import KINDS
from .weight_views import by_channel

log = logging.getLogger("qat")

#: Standard deviations of a normalized value that count as its largest one.
_DEVIATIONS = 3.0
#: A channel is large from this multiple of the median on.
_LARGE = 4.0
#: Slices that leave the last axis as it is if they leave its size, by what their framework calls them.
_SLICES = ("aten.slice.Tensor", "aten.select.int")


def even_norms(graph: Graph, params: Mapping[str, np.ndarray], names: Collection[str]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return a graph and its parameters with the large channels of norms made even; the float function stays what it was.

    A norm takes part if layers of products alone read it. The range of a channel is estimated as ``|beta| + 3 |gamma|``; where it
    is four times the median or more, the channel is divided by ``sqrt(range / median * median weight / weight)``.

    Args:
        graph: BatchNorm folded. A norm that its framework computes becomes one of a kind, if it is changed.
        params: in the framework's own layout.
        names: of the norms that run in float.
    """
    uses = Counter(name for op in graph.ops for name in {*op.params.values(), *_held(op).values()})
    made, ops = dict(params), list(graph.ops)
    for place, norm in enumerate(graph.ops):
        held = _held(norm) if norm.name in names else {}
        layers = _readers(graph, norm) if "gamma" in held else []
        own = [*held.values(), *(name for op in layers for name in op.params.values())]
        if not layers or any(uses[name] > 1 or is_computed(params, name) for name in own):
            continue
        weights = {op.params["weight"]: np.array(made[op.params["weight"]], np.float64, order="C") for op in layers}
        views = [by_channel(op, weights[op.params["weight"]]) for op in layers]
        if any(view is None or view.shape[0] != 1 for view in views):
            continue
        inputs = [view[0].swapaxes(0, 1) for view in views if view is not None]  # by input channel, views of the weights
        factor = _factor(made, held, inputs)
        if np.all(factor == 1):
            continue
        for view in inputs:
            view *= factor.reshape(-1, *[1] * (view.ndim - 1))
        changed = {name: made[name] / factor.reshape(np.shape(made[name])) for name in held.values()}
        made |= {name: value.astype(np.float32) for name, value in (changed | weights).items()}
        ops[place] = _named(norm, held)
        log.info("%s: %d large channels became even with the others", norm.layer, np.count_nonzero(factor != 1))
    return graph.replace(ops=tuple(ops)), made


def _held(op: Op) -> dict[str, str]:
    """Return the parameters of a norm by role; those of a norm that its framework computes stand among its attributes."""
    values = op.params if KINDS[op.kind].normalizes else op.attrs if "computes" in op.attrs else {}
    return {role: values[role] for role in ("gamma", "beta") if role in values}


def _named(norm: Op, held: Mapping[str, str]) -> Op:
    """Return a norm as an operator of its kind, whose parameters are the graph's."""
    if KINDS[norm.kind].normalizes:
        return norm
    attrs = {name: norm.attrs[name] for name in KINDS[norm.attrs["computes"]].attrs if name in norm.attrs}
    return Op(f"{norm.name}_even", norm.attrs["computes"], norm.inputs, norm.outputs, dict(held), attrs, norm.scope)


def _factor(params: Mapping[str, np.ndarray], held: Mapping[str, str], inputs: list[np.ndarray]) -> np.ndarray:
    """Return the factor of each channel; 1 for one that is not large."""
    sizes = {role: np.abs(np.asarray(params[name], np.float64)).ravel() for role, name in held.items()}
    reach = _DEVIATIONS * sizes["gamma"] + sizes.get("beta", 0.0)
    weight = np.max([np.abs(view).reshape(len(view), -1).max(1) for view in inputs], axis=0)
    usual, usual_weight = np.median(reach), np.median(weight)
    if len(reach) != len(weight) or not usual or not usual_weight:
        return np.ones(len(weight))
    times = reach / usual
    room = np.divide(usual_weight, weight, out=np.full(len(weight), np.inf), where=weight > 0)
    return np.where(times >= _LARGE, np.clip(np.sqrt(times * room), 1.0, np.maximum(times, 1.0)), 1.0)


def _readers(graph: Graph, norm: Op) -> list[Op]:
    """Return the layers of products that read a norm's channels as their input channels; none where anything else reads them."""
    consumers, found = graph.consumers(), []
    rank = len(graph.tensors[norm.output].shape)
    waiting = [(norm.output, int(norm.attrs.get("axis", rank - 1)))]
    while waiting:
        tensor, axis = waiting.pop()
        if tensor in graph.outputs or tensor not in consumers:
            return []
        for op in consumers[tensor]:
            if KINDS[op.kind].linear and not KINDS[op.kind].spatial and axis == len(graph.tensors[tensor].shape) - 1:
                found.append(op)
            elif (moved := _axis_after(graph, op, axis)) is not None:
                waiting.append((op.output, moved))
            else:
                return []
    return found


def _axis_after(graph: Graph, op: Op, axis: int) -> int | None:
    """Return where an operator leaves an axis, if it leaves it as it is."""
    before, after = (graph.tensors[name].shape for name in (op.inputs[0], op.output))
    if op.kind == "transpose":
        return int(op.attrs["axes"].index(axis))
    if op.kind == "mean":
        axes = {a % len(before) for a in op.attrs["axes"]}
        below = 0 if op.attrs["keepdims"] else sum(a < axis for a in axes)
        return None if axis in axes else axis - below
    if op.kind == "reshape" and None not in before[1:] and None not in after[1:]:
        outer = math.prod(n or 1 for n in before[1:axis])
        places = (a for a in range(1, len(after)) if math.prod(n or 1 for n in after[1:a]) == outer and after[a] == before[axis])
        return next(places, None)
    if op.kind == "move" and op.attrs["target"] in _SLICES and axis == len(before) - 1 and before[-1] == after[-1]:
        # A selected position leaves one axis fewer; of two last axes of one size it may be either.
        return len(after) - 1 if len(after) == len(before) or before[-2] != before[-1] else None
    return None

"""Cross-layer equalization: consecutive layers share the ranges of their channels, so that one scale a tensor wastes less.

Between two layers joined by a positively homogeneous function, ``f(s x) = s f(x)``, a channel may be divided by a factor in the
first and multiplied by it in the second; ``s = sqrt(r1 r2) / r2`` makes both ranges ``sqrt(r1 r2)``. Source: Nagel et al. 2019,
"Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.

A ReLU6 is homogeneous below 6 only. The paper puts a ReLU in its place, which is another function. Here it stays, and a channel
takes part where its BatchNorm says that it does not reach 6, neither before nor after: :func:`upper_ends`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .computed_weights import is_computed
from .graph import Graph, Op
from .kinds import KINDS, bounds
from .weight_views import by_channel

log = logging.getLogger("qat")

#: Standard deviations of a normalized channel that count as its largest value: 13 were seen among 10^7 values, a few times.
_DEVIATIONS = 16.0
#: Sweeps over all pairs, and the logarithm of a factor that changes nothing any more.
_SWEEPS, _SETTLED = 50, 1e-3


@dataclass(frozen=True)
class Pair:
    """Two layers, the first read by the second alone.

    Attributes:
        top: where an operator between them clips, as a ReLU6 does at 6; None where none does.
        flattened: whether an image becomes a row between them.
    """

    first: Op
    second: Op
    top: float | None = None
    flattened: bool = False


def upper_ends(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return an upper end of each channel of each BatchNorm's output, by tensor: sixteen deviations above its mean.

    The mean is beta, the deviation gamma, as in the paper; of a channel that died in training, whose variance is below epsilon,
    it is ``|gamma| sqrt(var / (var + epsilon))``. ``graph`` and ``params`` are as traced, BatchNorm not folded yet.
    """
    ends = {}
    for op in graph.ops:
        if op.kind == "batch_norm":
            variance = np.asarray(params[op.params["variance"]], np.float64)
            gamma = np.abs(params[op.params["gamma"]]) if "gamma" in op.params else np.ones_like(variance)
            beta = params[op.params["beta"]] if "beta" in op.params else np.zeros_like(variance)
            deviation = gamma * np.sqrt(variance / (variance + op.attrs["epsilon"])) if op.attrs["epsilon"] else gamma
            ends[op.output] = beta + _DEVIATIONS * deviation
    return ends


def equalize(graph: Graph, params: Mapping[str, np.ndarray], upper: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters with the ranges of every pair's channels made equal; the float function stays what it was.

    Pairs overlap: they are gone through until no factor changes anything any more. The arithmetic is in float64.

    Args:
        graph, params: BatchNorm folded, parameters in the framework's own layout.
        upper: from :func:`upper_ends`.
    """
    pairs = [pair for pair in pairs_of(graph, params) if pair.top is None or pair.first.output in upper]
    named = {name for pair in pairs for op in (pair.first, pair.second) for name in op.params.values()}
    made = {name: np.array(params[name], np.float64, order="C") for name in named}
    clipped = [pair for pair in pairs if pair.top is not None]
    ends = {pair.first.name: np.array(upper[pair.first.output]) for pair in clipped}
    takes_part = {pair.first.name: ends[pair.first.name] <= pair.top for pair in clipped}
    changed = set()
    for _ in range(_SWEEPS):
        moving = False
        for pair in pairs:
            name = pair.first.name
            factor = _factor(*channel_ranges(pair, made, graph.layout))
            if pair.top is not None:
                factor = np.where(takes_part[name], np.maximum(factor, ends[name] / pair.top), 1.0)
            if np.abs(np.log(factor)).max() > _SETTLED:
                _rescale(pair, made, factor, graph.layout)
                if pair.top is not None:
                    ends[name] /= factor
                changed.add(name)
                moving = True
        if not moving:
            break
    if changed:
        log.warning("equalized the channels between %d pair(s) of layers, of %d", len(changed), len(pairs))
    else:
        log.warning(
            "equalize changed nothing: %d pair(s) of layers follow each other directly or by a ReLU, and the channels between "
            "them have even ranges (a ReLU6's take part where they stay below 6)", len(pairs),
        )  # fmt: skip
    return {**params, **{name: value.astype(np.float32) for name, value in made.items()}}


def pairs_of(graph: Graph, params: Mapping[str, np.ndarray]) -> list[Pair]:
    """Return the pairs of layers whose channels may be rescaled: own parameters, and nobody else reads what is between."""
    consumers = graph.consumers()
    uses = Counter(name for op in graph.ops for name in op.params.values())

    def is_layer(op: Op) -> bool:
        own = KINDS[op.kind].linear and all(uses[name] == 1 and not is_computed(params, name) for name in op.params.values())
        return own and by_channel(op, params[op.params["weight"]]) is not None

    found = []
    for first in filter(is_layer, graph.ops):
        op, flattened = first, False
        top: float | None = None
        axis: int | None = _channel_axis(first, graph)
        while axis is not None:
            readers = consumers.get(op.output, [])
            if len(readers) != 1 or op.output in graph.outputs:
                break
            op = readers[0]
            if is_layer(op):
                if axis == _channel_axis(op, graph, of_input=True) and _fits(first, op, params, flattened):
                    found.append(Pair(first, op, top, flattened))
                break
            clips_at = bounds(op.kind)[1]
            top = top if clips_at is None else clips_at
            flattened |= "shape" in KINDS[op.kind].attrs
            axis = _axis_after(op, axis, graph)
    return found


def _channel_axis(op: Op, graph: Graph, of_input: bool = False) -> int:
    """Return the axis of the channels in a layer's output, or in its input."""
    rank = len(graph.tensors[op.inputs[0] if of_input else op.output].shape)
    return 1 if graph.layout == "NCHW" and KINDS[op.kind].spatial else rank - 1


def _axis_after(op: Op, axis: int, graph: Graph) -> int | None:
    """Return the axis of the channels after an operator between two layers; None where it does not keep them apart."""
    shape = graph.tensors[op.inputs[0]].shape
    of_images = axis == (1 if graph.layout == "NCHW" else len(shape) - 1)
    kind = KINDS[op.kind]
    if kind.homogeneous:
        return axis if not kind.spatial or (of_images and len(shape) == 4) else None
    if "keepdims" in kind.attrs:  # a mean
        axes = {a % len(shape) for a in op.attrs["axes"]}
        below = 0 if op.attrs["keepdims"] else sum(a < axis for a in axes)
        return None if axis in axes else axis - below
    if "shape" in kind.attrs and of_images and len(shape) == 4 and len(graph.tensors[op.output].shape) == 2:
        return 1
    return None


def _fits(first: Op, second: Op, params: Mapping[str, np.ndarray], flattened: bool) -> bool:
    a, b = (by_channel(op, params[op.params["weight"]]) for op in (first, second))
    assert a is not None and b is not None
    outputs, inputs = a.shape[0] * a.shape[1], b.shape[0] * b.shape[2]
    return inputs % outputs == 0 if flattened else inputs == outputs


def _views(pair: Pair, params: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights as ``[channels, ...]``: of the first by output channel, of the second by input channel. Views."""
    a, b = (by_channel(op, params[op.params["weight"]]) for op in (pair.first, pair.second))
    assert a is not None and b is not None
    return a, b.swapaxes(1, 2)


def channel_ranges(pair: Pair, params: Mapping[str, np.ndarray], layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest magnitude of each channel's weights in the first and in the second layer."""
    first, second = (np.abs(view).reshape(view.shape[0] * view.shape[1], -1).max(1) for view in _views(pair, params))
    if pair.flattened:
        # Every channel has a feature for each place of the image, one after the other where channels come first.
        second = second.reshape((len(first), -1) if layout == "NCHW" else (-1, len(first))).max(1 if layout == "NCHW" else 0)
    return first, second


def _factor(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``sqrt(r1 r2) / r2``; 1 for a channel that one of the layers ignores."""
    used = (first > 0) & (second > 0)
    return np.sqrt(np.divide(first, second, out=np.ones_like(first), where=used))


def _rescale(pair: Pair, params: dict[str, np.ndarray], factor: np.ndarray, layout: str) -> None:
    """Divide the first layer's output channels, bias included, by the factors and multiply the second's input channels."""
    first, second = _views(pair, params)
    first /= factor.reshape(*first.shape[:2], *[1] * (first.ndim - 2))
    if "bias" in pair.first.params:
        bias = params[pair.first.params["bias"]]
        bias /= factor.reshape(bias.shape)
    if pair.flattened:
        places = second.shape[0] * second.shape[1] // len(factor)
        factor = np.repeat(factor, places) if layout == "NCHW" else np.tile(factor, places)
    second *= factor.reshape(*second.shape[:2], *[1] * (second.ndim - 2))

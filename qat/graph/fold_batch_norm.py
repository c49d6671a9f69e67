"""BatchNorm folding, before training and once: ``y = gamma (conv(x) - mean) / sqrt(var + eps) + beta`` is one convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from .computed_weights import factor_of, is_computed
from .graph import Graph, Op
from .kinds import KINDS

#: A graph, its parameters, and the names of those that are not trained.
Folded = tuple[Graph, dict[str, np.ndarray], frozenset[str]]


@dataclass(frozen=True)
class _Layer:
    """A layer and the BatchNorms that are folded into it; all calls of the layer share it.

    Attributes:
        kind: of the layer's first call; a BatchNorm that becomes a layer is a depthwise convolution.
        params: the names of the layer's parameters by role.
        attrs: of the layer's first call.
        norms: how many BatchNorms go with each call.
    """

    kind: str
    params: Mapping[str, str]
    attrs: Mapping[str, Any]
    norms: int


def fold_batch_norm(graph: Graph, params: Mapping[str, np.ndarray], fixed: Set[str] = frozenset()) -> Folded:
    """Fold every BatchNorm that is the only reader of a convolution or dense layer into that layer.

    One of an image that cannot be folded (of a sum, of a concatenation) becomes a depthwise convolution of 1x1, into which
    the next BatchNorm is folded. The arithmetic is in float64, the result float32.

    What is called several times stays one: a layer whose every call is followed by the same BatchNorm is folded once, and a
    BatchNorm of several sums is one depthwise convolution's parameters. A layer whose calls lead to different BatchNorms is left
    alone. A layer without a bias gets one, named beside its weight; the bias is trained if the weight is, unless the beta in it
    is not.

    Args:
        graph: as traced; ``channel_axis`` of a layer is the axis (or axes, flattened) of its weight's output channels.
        params: the parameters by name, in the framework's own layout.
        fixed: the names of the parameters that are not trained.

    Returns:
        The graph and the parameters without the folded BatchNorms, and the names of the parameters that are not trained.
    """
    folding = _Folding(graph, params, fixed)
    made: list[Op] = []
    gone: set[str] = set()
    for op in graph.ops:
        if op.name in gone:
            continue
        layer = folding.layer(op)
        if layer is None:
            made.append(op)
        else:
            norms = folding.after(op)[: layer.norms]
            gone.update(norm.name for norm in norms)
            # Calls of one weight may differ in their windows: strides, padding, dilations.
            kind, attrs = (layer.kind, layer.attrs) if op.kind == "batch_norm" else (op.kind, op.attrs)
            made.append(Op(op.name, kind, op.inputs, (norms or [op])[-1].outputs, layer.params, attrs, op.scope))
    read = {name for op in made for name in op.params.values()}
    for name in {name for op in graph.ops if op.kind == "batch_norm" for name in op.params.values()} - read:
        folding.params.pop(name, None)
    alive = {*graph.inputs, *(name for op in made for name in (*op.inputs, *op.outputs))}
    tensors = {name: spec for name, spec in graph.tensors.items() if name in alive}
    return graph.replace(ops=tuple(made), tensors=tensors), folding.params, frozenset(folding.fixed)


class _Folding:
    """The layers of a graph, each folded once, whatever the number of its calls.

    Attributes:
        params: the parameters by name, folded as far as layers were asked for.
        fixed: the names of those that are not trained.
    """

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], fixed: Set[str]) -> None:
        self.graph, self.traced = graph, params
        self.params, self.fixed = dict(params), set(fixed)
        self.consumers = graph.consumers()
        self.uses = Counter(name for op in graph.ops for name in op.params.values())
        self.calls: dict[str, list[Op]] = {}
        for op in filter(self._is_layer, graph.ops):
            self.calls.setdefault(_identity(op), []).append(op)
        self.layers: dict[str, _Layer] = {}

    def layer(self, op: Op) -> _Layer | None:
        """Return the layer that an operator calls; None for an operator that stays as it is."""
        if not self._is_layer(op):
            return None
        key = _identity(op)
        if key not in self.layers:
            self.layers[key] = self._folded(self.calls[key])
        return self.layers[key]

    def after(self, op: Op) -> list[Op]:
        """Return the BatchNorms of an operator's own channels in a row after it, each the only reader of the one before."""
        found: list[Op] = []
        tensor, axis = op.output, self._channels(op)
        while tensor not in self.graph.outputs and [reader.kind for reader in self.consumers.get(tensor, ())] == ["batch_norm"]:
            norm = self.consumers[tensor][0]
            if self._channels(norm) != axis:
                break
            found.append(norm)
            tensor = norm.output
        return found

    def _channels(self, op: Op) -> int:
        """Return the axis of an operator's result that its parameters lie along; a dense layer's is the last in any layout."""
        rank = len(self.graph.tensors[op.output].shape)
        if op.kind == "batch_norm":
            return int(op.attrs["axis"]) % rank
        return 1 if op.kind != "dense" and self.graph.layout == "NCHW" else rank - 1

    def _is_layer(self, op: Op) -> bool:
        """Return whether an operator is a convolution or dense layer, or a BatchNorm that can become one."""
        channels = 1 if self.graph.layout == "NCHW" else 3
        rank = len(self.graph.tensors[op.inputs[0]].shape) if op.kind == "batch_norm" else 0
        return KINDS[op.kind].linear or (rank == 4 and op.attrs["axis"] % 4 == channels)

    def _folded(self, calls: Sequence[Op]) -> _Layer:
        """Fold the BatchNorms that every call of a layer leads to into the layer's parameters."""
        rows = zip(*map(self.after, calls), strict=False)
        norms = [norms[0] for norms in takewhile(lambda norms: len({*map(_identity, norms)}) == 1, rows)]
        op = calls[0]
        if op.kind == "batch_norm":
            layer = self._depthwise(op, calls, len(norms))
        elif self.uses[op.params["weight"]] > len(calls):  # something else reads the weight as it is
            return _Layer(op.kind, op.params, op.attrs, 0)
        else:
            layer = _Layer(op.kind, op.params, op.attrs, len(norms))
        for norm in norms:
            layer = self._with(norm, layer)
        return layer

    def _with(self, norm: Op, layer: _Layer) -> _Layer:
        """Fold a BatchNorm into the parameters of a layer."""
        factor, shift = self._affine(norm)
        weight, bias = layer.params["weight"], layer.params.get("bias")
        shift = shift if bias is None else np.asarray(self.params[bias], np.float64) * factor + shift
        if bias is None or is_computed(self.params, bias):
            bias = _bias_beside(weight, self.params)
            if weight in self.fixed or norm.params.get("beta") in self.fixed:
                self.fixed.add(bias)
        along = _along(factor, self.params[weight].shape, layer.attrs["channel_axis"])
        for name in (weight, factor_of(weight)):
            if name in self.params:
                self.params[name] = (np.asarray(self.params[name], np.float64) * along).astype(np.float32)
        self.params[bias] = shift.astype(np.float32)
        return replace(layer, params={**layer.params, "bias": bias})

    def _depthwise(self, bn: Op, calls: Sequence[Op], norms: int) -> _Layer:
        """Return a BatchNorm of an image as a depthwise convolution, in the weight layout of the framework."""
        names, affine = {}, [bn.params[role] for role in ("gamma", "beta") if role in bn.params]
        for role, source in (("weight", bn.params.get("gamma", "")), ("bias", bn.params.get("beta", ""))):
            names[role] = (
                source if self.uses[source] == len(calls) and not is_computed(self.params, source) else f"{bn.name}.{role}"
            )
            if affine and self.fixed.issuperset([source] if source else affine):
                self.fixed.add(names[role])
        factor, shift = self._affine(bn)
        shape, axis = ((-1, 1, 1, 1), 0) if self.graph.layout == "NCHW" else ((1, 1, -1, 1), (2, 3))
        self.params[names["weight"]] = factor.reshape(shape).astype(np.float32)
        self.params[names["bias"]] = shift.astype(np.float32)
        window = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilations": (1, 1)}
        return _Layer("depthwise_conv2d", names, {**window, "groups": factor.size, "channel_axis": axis}, norms)

    def _affine(self, bn: Op) -> tuple[np.ndarray, np.ndarray]:
        """Return a BatchNorm's factor and shift in float64."""
        gamma, beta, mean, variance = (
            np.asarray(self.traced[bn.params[role]], np.float64) if role in bn.params else None
            for role in ("gamma", "beta", "mean", "variance")
        )
        factor = (1.0 if gamma is None else gamma) / np.sqrt(np.asarray(variance) + bn.attrs["epsilon"])
        return factor, (0.0 if beta is None else beta) - np.asarray(mean) * factor


def _identity(op: Op) -> str:
    """Return what all calls of one layer have in common: parameters, and the attributes that decide how they are folded."""
    attrs = [op.attrs.get(name) for name in ("channel_axis", "groups", "epsilon", "axis")]
    return repr((KINDS[op.kind].linear, sorted(op.params.items()), attrs))


def _along(factor: np.ndarray, shape: tuple[int, ...], axis: int | tuple[int, ...]) -> np.ndarray:
    axes = [a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)]
    return factor.reshape([n if i in axes else 1 for i, n in enumerate(shape)])


def _bias_beside(weight: str, params: Mapping[str, np.ndarray]) -> str:
    stem, _, _ = weight.rpartition(".") if "." in weight else weight.rpartition("/")
    separator = "." if "." in weight else "/"
    name = f"{stem}{separator}bias" if stem else "bias"
    return name if name not in params else f"{weight}_bias"

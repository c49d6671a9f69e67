"""BatchNorm folding, before training and once: ``y = gamma (conv(x) - mean) / sqrt(var + eps) + beta`` is one convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from qat.graph import Graph, Op

_FOLDABLE = ("conv2d", "depthwise_conv2d", "dense")


def fold_batch_norm(graph: Graph, params: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Fold every BatchNorm that is the only reader of a convolution or dense layer into that layer.

    The arithmetic is in float64, the result float32. A layer without a bias gets one, named beside its weight. A layer
    whose weight is used more than once is left alone: its BatchNorms need not agree.

    Args:
        graph: as traced; ``channel_axis`` of a layer is the axis (or axes, flattened) of its weight's output channels.
        params: the parameters by name, in the framework's own layout.

    Returns:
        The graph and the parameters without the folded BatchNorms.
    """
    out = dict(params)
    consumers, producers = graph.consumers(), graph.producers()
    uses = Counter(name for op in graph.ops for name in op.params.values())
    rewritten: dict[str, Op] = {}
    dropped: set[str] = set()
    for bn in graph.ops:
        if bn.kind != "batch_norm":
            continue
        layer = producers.get(bn.inputs[0])
        if (
            layer is None
            or layer.kind not in _FOLDABLE
            or len(consumers[layer.output]) != 1
            or layer.output in graph.outputs
            or uses[layer.params["weight"]] != 1
        ):
            continue
        gamma, beta, mean, variance = (_float64(out, bn.params.get(role)) for role in ("gamma", "beta", "mean", "variance"))
        factor = (1.0 if gamma is None else gamma) / np.sqrt(np.asarray(variance) + bn.attrs["epsilon"])
        weight_name = layer.params["weight"]
        bias_name = layer.params.get("bias") or _bias_beside(weight_name, out)
        bias = _float64(out, layer.params.get("bias"))
        weight = np.asarray(out[weight_name], np.float64)
        out[weight_name] = (weight * _along(factor, weight.shape, layer.attrs["channel_axis"])).astype(np.float32)
        shifted = ((0.0 if bias is None else bias) - np.asarray(mean)) * factor + (0.0 if beta is None else beta)
        out[bias_name] = np.asarray(shifted, np.float32)
        for name in bn.params.values():
            if uses[name] == 1:
                out.pop(name, None)
        rewritten[layer.name] = Op(
            layer.name, layer.kind, layer.inputs, bn.outputs, {**layer.params, "bias": bias_name}, layer.attrs, layer.scope
        )
        dropped.add(bn.name)
    ops = tuple(rewritten.get(op.name, op) for op in graph.ops if op.name not in dropped)
    alive = {*graph.inputs, *(name for op in ops for name in (*op.inputs, *op.outputs))}
    tensors = {name: spec for name, spec in graph.tensors.items() if name in alive}
    return graph.replace(ops=ops, tensors=tensors), out


def _float64(params: Mapping[str, np.ndarray], name: str | None) -> Any:
    return None if name is None else np.asarray(params[name], np.float64)


def _along(factor: np.ndarray, shape: tuple[int, ...], axis: int | tuple[int, ...]) -> np.ndarray:
    axes = (axis,) if isinstance(axis, int) else axis
    return factor.reshape([n if i in axes else 1 for i, n in enumerate(shape)])


def _bias_beside(weight: str, params: Mapping[str, np.ndarray]) -> str:
    stem, _, _ = weight.rpartition(".") if "." in weight else weight.rpartition("/")
    separator = "." if "." in weight else "/"
    name = f"{stem}{separator}bias" if stem else "bias"
    return name if name not in params else f"{weight}_bias"

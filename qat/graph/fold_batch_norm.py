"""BatchNorm folding, before training and once: ``y = gamma (conv(x) - mean) / sqrt(var + eps) + beta`` is one convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from .graph import Graph, Op
from .kinds import KINDS


def fold_batch_norm(graph: Graph, params: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Fold every BatchNorm that is the only reader of a convolution or dense layer into that layer.

    One of an image that cannot be folded (of a sum, of a concatenation) becomes a depthwise convolution of 1x1, into which
    the next BatchNorm is folded. The arithmetic is in float64, the result float32. A layer without a bias gets one, named
    beside its weight. A layer whose weight is used more than once is left alone: its BatchNorms need not agree.

    Args:
        graph: as traced; ``channel_axis`` of a layer is the axis (or axes, flattened) of its weight's output channels.
        params: the parameters by name, in the framework's own layout.

    Returns:
        The graph and the parameters without the folded BatchNorms.
    """
    out = dict(params)
    consumers = graph.consumers()
    uses = Counter(name for op in graph.ops for name in op.params.values())
    ops: dict[str, Op] = {}
    writer: dict[str, str] = {}
    for op in graph.ops:
        made = op
        if op.kind == "batch_norm":
            layer = ops.get(writer.get(op.inputs[0], ""))
            if (
                layer is not None
                and KINDS[layer.kind].linear
                and len(consumers[layer.output]) == 1
                and layer.output not in graph.outputs
                and uses[layer.params["weight"]] <= 1
            ):
                made = _folded(op, layer, out, uses)
            elif len(graph.tensors[op.inputs[0]].shape) == 4 and op.attrs["axis"] % 4 == (1 if graph.layout == "NCHW" else 3):
                made = _depthwise(op, graph.layout, out, uses)
        ops[made.name] = made
        writer.update(dict.fromkeys(made.outputs, made.name))
    alive = {*graph.inputs, *(name for op in ops.values() for name in (*op.inputs, *op.outputs))}
    tensors = {name: spec for name, spec in graph.tensors.items() if name in alive}
    return graph.replace(ops=tuple(ops.values()), tensors=tensors), out


def _folded(bn: Op, layer: Op, params: dict[str, np.ndarray], uses: Counter[str]) -> Op:
    """Return a layer with a BatchNorm folded into its parameters, in its place."""
    factor, shift = _affine(bn, params, uses)
    weight_name = layer.params["weight"]
    bias_name = layer.params.get("bias") or _bias_beside(weight_name, params)
    bias = _float64(params, layer.params.get("bias"))
    weight = np.asarray(params[weight_name], np.float64)
    params[weight_name] = (weight * _along(factor, weight.shape, layer.attrs["channel_axis"])).astype(np.float32)
    params[bias_name] = np.asarray((0.0 if bias is None else bias) * factor + shift, np.float32)
    return Op(layer.name, layer.kind, layer.inputs, bn.outputs, {**layer.params, "bias": bias_name}, layer.attrs, layer.scope)


def _depthwise(bn: Op, layout: str, params: dict[str, np.ndarray], uses: Counter[str]) -> Op:
    """Return a BatchNorm of an image as a depthwise convolution, in the weight layout of the framework."""
    names = {role: bn.params.get(own, "") for role, own in (("weight", "gamma"), ("bias", "beta"))}
    names = {role: name if uses[name] == 1 else f"{bn.name}.{role}" for role, name in names.items()}
    factor, shift = _affine(bn, params, uses)
    shape, axis = ((-1, 1, 1, 1), 0) if layout == "NCHW" else ((1, 1, -1, 1), (2, 3))
    params[names["weight"]] = factor.reshape(shape).astype(np.float32)
    params[names["bias"]] = shift.astype(np.float32)
    window = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilations": (1, 1)}
    attrs = {**window, "groups": factor.size, "channel_axis": axis}
    return Op(bn.name, "depthwise_conv2d", bn.inputs, bn.outputs, names, attrs, bn.scope)


def _affine(bn: Op, params: dict[str, np.ndarray], uses: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return a BatchNorm's factor and shift in float64, and forget its parameters."""
    gamma, beta, mean, variance = (_float64(params, bn.params.get(role)) for role in ("gamma", "beta", "mean", "variance"))
    factor = (1.0 if gamma is None else gamma) / np.sqrt(np.asarray(variance) + bn.attrs["epsilon"])
    for name in bn.params.values():
        if uses[name] == 1:
            params.pop(name, None)
    return factor, (0.0 if beta is None else beta) - np.asarray(mean) * factor


def _float64(params: Mapping[str, np.ndarray], name: str | None) -> np.ndarray | None:
    return None if name is None else np.asarray(params[name], np.float64)


def _along(factor: np.ndarray, shape: tuple[int, ...], axis: int | tuple[int, ...]) -> np.ndarray:
    axes = [a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)]
    return factor.reshape([n if i in axes else 1 for i, n in enumerate(shape)])


def _bias_beside(weight: str, params: Mapping[str, np.ndarray]) -> str:
    stem, _, _ = weight.rpartition(".") if "." in weight else weight.rpartition("/")
    separator = "." if "." in weight else "/"
    name = f"{stem}{separator}bias" if stem else "bias"
    return name if name not in params else f"{weight}_bias"

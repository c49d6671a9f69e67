"""Trained factors of a layer's channels, as the layer scales of ConvNeXt, CaiT and DINOv2: they multiply the layer's weight.

The product is no kernel of its own then, with a grid of its own. The weight that the layer reads is computed from both, see
:mod:`qat.adapters.torch.capture.computed_weights`, so that both are trained as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from .computed_weights import VIEWS
from .parameter_products import turn_of
from .rewriter import Rewriter, fake_mode

aten = torch.ops.aten

#: Layers whose weight has the output channels first, by the axis of the output's channels.
_CHANNELS: Mapping[Any, int] = {
    aten.linear.default: -1, aten.conv1d.default: -2, aten.conv1d.padding: -2, aten.conv2d.default: -3, aten.conv2d.padding: -3,
    aten.conv3d.default: -4,
}  # fmt: skip


def fold_channel_factors(
    graph: fx.Graph, derived: Collection[fx.Node], owner: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put a scaled weight and bias in the place of a product with trained factors of the channels, in place.

    Args:
        graph: as captured.
        derived: the nodes that no input of the model takes part in.
        owner: the name of the parameter or buffer behind each placeholder.
        tensors: those by name.
    """
    writer = Rewriter(graph, fake_mode(graph))
    for product in list(graph.find_nodes(op="call_function", target=aten.mul.Tensor)):
        operands: Any = product.args
        for source, factor in (operands, operands[::-1]):
            parameter = _parameter(factor) if factor in derived else None
            if parameter is None or parameter.op != "placeholder" or not tensors[owner[parameter.name]].requires_grad:
                continue
            layer = _layer_of(product, source, factor, derived)
            if layer is not None:
                _scale(writer, layer, parameter)
                product.replace_all_uses_with(source)
                graph.erase_node(product)
                break


def _layer_of(product: fx.Node, source: Any, factor: fx.Node, derived: Collection[fx.Node]) -> fx.Node | None:
    """Return the layer whose channels one operand has a factor for each of, and whose output is the other's; None without one."""
    if not isinstance(source, fx.Node) or source in derived:
        return None
    shape, channels = list(factor.meta["val"].shape), factor.meta["val"].numel()
    rank = product.meta["val"].ndim
    if channels == 1 or max(shape) != channels or len(shape) > rank:
        return None
    axis = shape.index(channels) + rank - len(shape)
    while len(source.users) == 1 and source.meta["val"].ndim == rank and (turn := turn_of(source)) is not None:
        axis, source = turn[axis], source.all_input_nodes[0]
    place = _CHANNELS.get(source.target)
    if place is None or len(source.users) > 1 or source.meta["val"].ndim != rank or axis != place + rank:
        return None
    own = [x for x in source.args[1:3] if isinstance(x, fx.Node)]
    alone = all(x.op == "placeholder" and x in derived and len(x.users) == 1 for x in own)
    return source if alone and own and own[0].meta["val"].shape[0] == channels else None


def _parameter(factor: fx.Node) -> fx.Node:
    """Return what a vector was before it was laid along an axis."""
    while factor.target in VIEWS:
        (source,) = factor.all_input_nodes[:1]
        if source.meta["val"].numel() != factor.meta["val"].numel():
            break
        factor = source
    return factor


def _scale(writer: Rewriter, layer: fx.Node, factor: fx.Node) -> None:
    """Let a layer read its weight and its bias times a factor of each channel."""
    scaled = []
    parameters: Any = layer.args[1:3]
    for parameter in parameters:
        along = [-1, *[1] * (parameter.meta["val"].ndim - 1)] if isinstance(parameter, fx.Node) else []
        laid = writer.call(layer, aten.reshape.default, factor, along) if along else None
        scaled.append(parameter if laid is None else writer.call(layer, aten.mul.Tensor, laid, parameter))
    layer.args = (layer.args[0], *scaled, *layer.args[3:])

"""Weights that a model computes from parameters alone: they leave the captured graph, and become parameters of it.

Weight normalization, spectral normalization, weight standardization, masks of pruning, any parametrization and a transposed tied
weight have this form. In the graph stands a placeholder, as of any parameter, so that rewrites and rules know nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

aten = torch.ops.aten

#: Operators that only lay numbers out anew. A weight that a layer reads may be laid out; of any other parameter the rules see it.
VIEWS = {
    aten.view.default, aten.reshape.default, aten.reshape_as.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.expand.default,
    aten.expand_as.default, aten.slice.Tensor, aten.select.int, aten.index.Tensor, aten.t.default, aten.transpose.int,
    aten.permute.default, aten.numpy_T.default, aten.to.dtype, aten.clone.default, aten.contiguous.default,
    aten.detach.default, aten.alias.default,
}  # fmt: skip
#: Layers, whose weight is their second argument.
_LAYERS = {
    aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.conv1d.padding, aten.conv3d.default,
    aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input, aten.convolution.default,
}  # fmt: skip
#: How the names of parameters end that a weight is computed from: those of PyTorch's parametrizations, old and new.
_ORIGINALS = re.compile(r"^(.*?)parametrizations\.(\w+)\.original\d*$|^(.*?)(\w+)_(?:orig|g|v)$")


@dataclass(frozen=True)
class ComputedWeight:
    """A weight as a function of parameters.

    Attributes:
        graph: computes it; its placeholders stand for ``sources``, in order.
        sources: the parameters and buffers that it reads, by name.
        value: the weight now.
    """

    graph: fx.Graph
    sources: Mapping[str, Tensor]
    value: Tensor

    @property
    def trained(self) -> bool:
        """Whether one of its parameters is trained."""
        return any(source.requires_grad for source in self.sources.values())


def lift_computed_weights(graph: fx.Graph, owner: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Put a placeholder in the place of each weight that is computed from parameters; :func:`computed_weights` finds it.

    A parameter that takes part and is read as it is, too, gets one as well: a pass may scale what one reader reads.

    Args:
        graph: as captured, changed in place.
        owner: the name of the parameter or buffer behind each placeholder.
        tensors: those by name.
    """
    derived = of_parameters(graph, owner, tensors)
    ends = [node for node, trained in derived.items() if node.op != "placeholder" and _is_end(node, trained, derived)]
    inside = {node for end in ends for node in _behind(end)}
    ends += [node for node in inside if node.op == "placeholder" and derived[node] and any(_outside(node, derived))]
    taken = set(owner.values()) | set(tensors)
    first = next(iter(graph.nodes))
    for end in ends:
        computed = _extracted(end, owner, tensors)
        name = _name(next(iter(computed.sources)), taken)
        taken.add(name)
        with graph.inserting_before(first):
            made = graph.placeholder(re.sub(r"\W", "_", f"p_{name}"))
        made.meta = {**end.meta, "computed_weight": (name, computed)}
        for user in list(_outside(end, derived)):
            user.replace_input_with(end, made)
    graph.eliminate_dead_code()


def of_parameters(graph: fx.Graph, owner: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[fx.Node, bool]:
    """Return the nodes that no input of the model takes part in, and whether parameters do, and not buffers alone."""
    found = {
        node: isinstance(tensors[owner[node.name]], torch.nn.Parameter)
        for node in graph.nodes
        if node.op == "placeholder" and node.name in owner
    }
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.op == "call_function" and sources and all(source in found for source in sources):
            found[node] = any(found[source] for source in sources)
    return found


def computed_weights(graph: fx.Graph) -> dict[str, tuple[str, ComputedWeight]]:
    """Return each placeholder's weight and its name."""
    return {n.name: n.meta["computed_weight"] for n in graph.nodes if n.op == "placeholder" and "computed_weight" in n.meta}


def _is_end(node: fx.Node, parameters: bool, derived: Mapping[fx.Node, bool]) -> bool:
    """Return whether a computed tensor is a weight: the rest of the model reads it, or of buffers alone a layer as its weight."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or not all(isinstance(n, int) for n in value.shape):
        return False
    readers = list(_outside(node, derived))
    if not parameters or all(n.target in VIEWS for n in _behind(node) if n.op == "call_function"):
        return any(reader.target in _LAYERS and node in reader.args[1:2] for reader in readers)
    return any(reader.op != "output" for reader in readers)


def _outside(node: fx.Node, derived: Mapping[fx.Node, bool]) -> list[fx.Node]:
    return [reader for reader in node.users if reader not in derived]


def _behind(end: fx.Node) -> list[fx.Node]:
    """Return a node and all that it is computed from, sources first."""
    found: dict[fx.Node, None] = {}
    waiting = [end]
    while waiting:
        node = waiting[-1]
        missing = [source for source in node.all_input_nodes if source not in found]
        if missing:
            waiting += missing
        else:
            found[waiting.pop()] = None
    return list(found)


def _extracted(end: fx.Node, owner: Mapping[str, str], tensors: Mapping[str, Tensor]) -> ComputedWeight:
    """Return the computation of a node as a graph of its own."""
    graph, nodes = fx.Graph(), _behind(end)
    sources = [node for node in nodes if node.op == "placeholder"]
    held = {owner[node.name]: tensors[owner[node.name]] for node in sources}
    copies = {node: graph.placeholder(node.name) for node in sources}
    for node in nodes:
        if node.op == "call_function":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta = {}
    graph.output(copies[end])
    with torch.no_grad():
        value = fx.Interpreter(fx.GraphModule(torch.nn.Module(), graph)).run(*held.values())
    return ComputedWeight(graph, held, value)


def _name(source: str, taken: set[str]) -> str:
    """Return the name of a weight from that of a parameter behind it: ``conv.weight`` of ``conv.weight_g``."""
    match = _ORIGINALS.match(source)
    name = "".join(part for part in match.groups() if part) if match else f"{source}_computed"
    while name in taken:
        name = f"{name}_computed"
    return name

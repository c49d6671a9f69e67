"""Tracing: a captured model's ATen operators become the neutral graph's kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qat.adapters.torch.signature import Signature, call_of, own_parameters
from qat.errors import CaptureError, ConfigError
from qat.graph.computed_weights import factor_of
from qat.graph.custom_layers import HANDLERS
from qat.graph.fold_padding import fold_padding
from qat.graph.graph import Graph, Op, TensorSpec
from qat.graph.kinds import KINDS
from qat.graph.training_acts import TrainingAct
from qat.program.caller_names import said_of_whole
from qat.program.file_origin import FileOrigin, origin_of

from .attention_masks import beside_masks, hide_masked, is_near
from .builder import Builder
from .computed_weights import ComputedWeight, computed_weights
from .constants import copy_returned, fold_constants
from .equal_rows import equal_rows
from .export import Captured, capture, owners
from .free_sizes import scope_of
from .match import Match, is_tensor
from .own_loss import OwnLoss, own_loss_of
from .rules import RULES
from .training_acts import acts_of
from .window_rules import why_float


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph.
        params: every parameter and buffer that the graph's operators name, in PyTorch's layout, float32.
        nodes: the captured node of every operator of kind ``float`` or ``move``, by operator name.
        state: the remaining tensors (buffers, constants) that operators of those kinds read, by name.
        computed: the weights that are computed from parameters, which ``state`` holds, by name.
        owner: the name of the parameter or buffer behind each captured placeholder.
        buffers: the names that are buffers, not parameters.
        frozen: the names of parameters that do not require a gradient.
        signature: the form of the inputs and outputs.
        device: that of the model's tensors.
        origin: the file that the model was read from; None where it was not.
        acts: what training does with tensors of the graph.
        act_modules: the computation of each, by the act's name.
        own_loss: the loss that the model computes of labels; None where it has none.
        config: that of a Hugging Face model; None of any other.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    nodes: Mapping[str, fx.Node]
    state: Mapping[str, torch.Tensor]
    computed: Mapping[str, ComputedWeight]
    owner: Mapping[str, str]
    buffers: frozenset[str]
    frozen: frozenset[str]
    signature: Signature
    device: torch.device
    origin: FileOrigin | None
    acts: tuple[TrainingAct, ...] = ()
    act_modules: Mapping[str, fx.GraphModule] = field(default_factory=dict)
    own_loss: OwnLoss | None = None
    config: Any = None

    @property
    def fixed(self) -> frozenset[str]:
        """The parameters that are not trained."""
        return self.buffers | self.frozen

    def fixing(self, names: Set[str]) -> Traced:
        """Return the same with more parameters that are not trained."""
        return replace(self, frozen=self.frozen | names)


def trace(model: nn.Module, example_inputs: Any, dynamic: Sequence[str] = (), dropout: bool = True) -> Traced:
    """Capture a model for any batch size, and any size of the axes that ``dynamic`` names.

    The model is captured in eval mode: BatchNorm uses its running statistics. What training adds (dropout, stochastic
    depth) is no part of the graph; with ``dropout`` it is found beside it.

    Args:
        model: the float model.
        example_inputs: a batch of its inputs, in any form that :func:`qat.adapters.torch.signature.call_of` knows.
        dynamic: the names of further axes.

    Raises:
        DataError: the example does not fit ``forward``.
        CaptureError: torch.export cannot capture it; the message carries the user's line and what to do.
    """
    if example_inputs is None:
        raise CaptureError("a PyTorch model is captured by running it: pass example_inputs, a batch of its inputs")
    call = call_of(model, example_inputs)
    try:
        captured = capture(model, call, dynamic, dropout)
    except CaptureError as error:
        taken = [parameter.name for parameter in own_parameters(call.forward)]
        raise CaptureError(f"{error}{said_of_whole(taken, example_inputs)}") from error
    exported, acts = captured.exported, captured.acts
    signature = exported.graph_signature
    if signature.buffers_to_mutate:
        names = ", ".join(sorted(signature.buffers_to_mutate.values())[:3])
        raise CaptureError(
            f"the model changes its own buffers in eval mode ({names}): make them outputs, or do it outside forward"
        )
    found = computed_weights(exported.graph)
    rows = equal_rows(exported.graph)
    owner = owners(model, exported) | {placeholder: name for placeholder, (name, _) in (found | rows).items()}
    computed = dict(found.values())
    tensors = {**exported.state_dict, **exported.constants}
    tensors |= dict(rows.values())
    tensors |= {name: weight.value.requires_grad_(weight.trained) for name, weight in computed.items()}
    far = hide_masked(exported.graph, owner, tensors)
    folded = fold_constants(exported.graph, owner, tensors)
    copy_returned(exported.graph, owner)
    parameters = signature.inputs_to_parameters
    near = {node for node, name in owner.items() if node not in parameters and is_near(tensors[name])}
    walker = _Walker(Builder(owner, tensors, folded), far | beside_masks(exported.graph, parameters, near))
    graph = walker.walk(captured, type(model).__name__)
    origin: FileOrigin | None = origin_of(model)
    if origin is not None:
        graph = fold_padding(graph)
    used = {name for op in graph.ops for name in op.params.values()}
    requires_grad = {name for name, p in exported.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in exported.named_parameters()}
    computed = {name: weight for name, weight in computed.items() if name in used | walker.read_by_kept}
    params = {name: tensors[name].detach().cpu().float().numpy() for name in used}
    sources = {name: tensor for weight in computed.values() for name, tensor in weight.sources.items()}
    return Traced(
        graph=graph,
        params=params | {factor_of(name): np.ones((), np.float32) for name in computed},
        nodes=walker.nodes,
        state={name: tensors[name] for name in walker.read_by_kept if name not in computed} | sources,
        computed=computed,
        owner=owner,
        buffers=frozenset(tensors) - parameters - computed.keys(),
        frozen=frozenset(parameters - requires_grad | {name for name, weight in computed.items() if not weight.trained}),
        signature=replace(
            captured.signature, inputs=dict(zip(captured.signature.inputs, graph.inputs, strict=True)), leaves=walker.leaves
        ),
        device=next((t.device for t in model.state_dict().values()), torch.device("cpu")),
        origin=origin,
        acts=acts_of(exported.graph, acts),
        act_modules={name: act.module for name, act in acts.items()},
        own_loss=own_loss_of(model, call.arguments),
        config=config if hasattr(config := getattr(model, "config", None), "save_pretrained") else None,
    )


class _Walker:
    """Walks the captured graph once; every node becomes an operator, by its rule or as a float one.

    Attributes:
        nodes: the captured node of every operator of kind ``float`` or ``move``, by operator name.
        read_by_kept: the parameters and buffers that those read.
        leaves: the tensor of each leaf of the user's outputs.
    """

    def __init__(self, builder: Builder, stay_float: Mapping[fx.Node, str]) -> None:
        self.builder, self.stay_float = builder, stay_float
        self.nodes: dict[str, fx.Node] = {}
        self.read_by_kept: set[str] = set()
        self.leaves: tuple[str | None, ...] = ()

    def walk(self, captured: Captured, name: str) -> Graph:
        """Return the neutral graph."""
        builder, waiting = self.builder, zip(captured.examples, captured.axes, strict=True)
        inputs: list[str] = []
        ops: list[Op] = []
        for node in captured.exported.graph.nodes:
            if node.op == "placeholder" and node.name not in builder.owner:
                inputs.append(node.name)
                builder.take_sizes(node.meta["val"], *next(waiting))
                builder.describe(node)
            elif node.name in builder.owner:
                continue
            elif node.op == "call_function" and is_tensor(node):
                op = self._op(node)
                ops += [*builder.take_constants(), op]
                builder.describe(node)
            elif node.op == "call_function" and _is_tuple(node):
                if not all(reader.name in builder.owner for reader in node.users):  # else its parts are constants
                    ops.append(self._float(node))
            elif node.op == "output":
                self.leaves = tuple(a.name if isinstance(a, fx.Node) else None for a in node.args[0])
        outputs = tuple(dict.fromkeys(name for name in self.leaves if name is not None))
        return Graph(name, "NCHW", tuple(inputs), outputs, tuple(ops), builder.specs)

    def _op(self, node: fx.Node) -> Op:
        rule = RULES.get(node.target) if node not in self.stay_float else None
        matched = self._handled(node) if node.target in HANDLERS else rule(self.builder, node) if rule else None
        if matched is None:
            return self._float(node)
        if KINDS[matched.kind].framework:
            self._keep(node)
        inputs = tuple(self.builder.read_as_tensor(node, i) for i in matched.inputs)
        return Op(node.name, matched.kind, inputs, (node.name,), matched.params, matched.attrs, scope_of(node))

    def _handled(self, node: fx.Node) -> Match | None:
        """Return the answer of the user's handler about a node."""
        handled = HANDLERS[node.target](node)
        if handled is None:
            return None
        params = self.builder.params(**handled.params)
        if params is None:
            raise ConfigError(f"the handler of {node.target} names a parameter that is computed, or is no float parameter")
        return Match(handled.kind, [a for a in node.all_input_nodes if a.name not in self.builder.owner], params, handled.attrs)

    def _keep(self, node: fx.Node) -> list[str]:
        """Keep a captured node as it is. Returns the tensors that it reads, without parameters."""
        self.nodes[node.name] = node
        self._note_reads(node)
        return [a.name for a in node.all_input_nodes if a.name not in self.builder.owner and (is_tensor(a) or _is_tuple(a))]

    def _note_reads(self, node: fx.Node) -> None:
        """Note the parameters and buffers that a node reads, also through sizes and numbers, which are copied with it."""
        for source in node.all_input_nodes:
            if source.name in self.builder.owner:
                self.read_by_kept.add(self.builder.owner[source.name])
            elif not (is_tensor(source) or _is_tuple(source)):
                self._note_reads(source)

    def _float(self, node: fx.Node) -> Op:
        inputs = self._keep(node)
        if _is_tuple(node):
            self.builder.specs[node.name] = TensorSpec(node.name, (), "tuple")
        reason = self.stay_float.get(node) or why_float(node)
        attrs = {"target": _name(node.target)} | ({"reason": reason} if reason else {})
        return Op(node.name, "float", tuple(inputs), (node.name,), {}, attrs, scope_of(node))


def _name(target: Any) -> str:
    """Return the name of an ATen operator, or of the function that rewriting has put in its place."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else str(getattr(target, "__name__", target))


def _is_tuple(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))

"""Tracing: a captured model's ATen operators become the neutral graph's kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qat.errors import CaptureError, ConfigError
from qat.graph.custom_layers import HANDLERS
from qat.graph.graph import EXAMPLE_BATCH, Graph, Op, TensorSpec

from .attention_masks import REASON, beside_masks
from .export import capture
from .free_sizes import scope_of
from .match import Match, is_tensor
from .rules import RULES

#: Where the numbers in a model's code (``x + 3``) are kept as buffers.
NUMBERS = "_numbers"


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph.
        params: every parameter and buffer that the graph's operators name, in PyTorch's layout, float32.
        nodes: the captured node of every operator of kind ``float`` or ``move``, by operator name.
        state: the remaining tensors (buffers, constants) that operators of those kinds read, by name.
        owner: the name of the parameter or buffer behind each captured placeholder.
        buffers: the names that are buffers, not parameters.
        frozen: parameters that do not require a gradient.
        structure: how the user's outputs are nested (a pytree spec), and its leaves by tensor name.
        device: where the model's tensors are.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    nodes: Mapping[str, fx.Node]
    state: Mapping[str, torch.Tensor]
    owner: Mapping[str, str]
    buffers: frozenset[str]
    frozen: frozenset[str]
    structure: tuple[Any, tuple[str | None, ...]]
    device: torch.device


def trace(model: nn.Module, example_inputs: tuple[Any, ...] | None, dynamic: Sequence[str] = ()) -> Traced:
    """Capture a model for any batch size, and any size of the axes that ``dynamic`` names.

    The model is captured in eval mode: dropout and stochastic depth are off, BatchNorm uses its running statistics.

    Raises:
        CaptureError: torch.export cannot capture it; the message carries the user's line and what to do.
    """
    if example_inputs is None:
        raise CaptureError("a PyTorch model is captured by running it: pass example_inputs, a batch of its inputs")
    exported = capture(model, example_inputs, dynamic)
    signature = exported.graph_signature
    owner = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    if signature.buffers_to_mutate:
        names = ", ".join(sorted(signature.buffers_to_mutate.values())[:3])
        raise CaptureError(
            f"the model changes its own buffers in eval mode ({names}): make them outputs, or do it outside forward"
        )
    # parameters_to_mutate and friends do not occur in eval mode; everything else is a pure function of the inputs.
    tensors = {**exported.state_dict, **exported.constants}
    kept = beside_masks(exported.graph, signature.inputs_to_parameters)
    builder = Builder(owner, tensors, example_inputs, kept)
    graph = builder.build(exported.graph, type(model).__name__)
    used = {name for op in graph.ops for name in op.params.values()}
    requires_grad = {name for name, p in exported.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in exported.named_parameters()}
    return Traced(
        graph=graph,
        params={name: tensors[name].detach().cpu().float().numpy() for name in used},
        nodes=builder.nodes,
        state={name: tensors[name] for name in builder.read_by_kept},
        owner=owner,
        buffers=frozenset(tensors) - parameters,
        frozen=frozenset(parameters - requires_grad),
        structure=(exported.call_spec.out_spec, builder.leaves),
        device=next((t.device for t in model.state_dict().values()), torch.device("cpu")),
    )


class Builder:
    """Walks the captured graph once.

    ``read_by_kept`` collects the parameters that PyTorch's own operators read, ``sizes`` the symbols of sizes that are free
    beside the batch, with those of the examples. ``kept`` are operators that stay float whatever they are.
    """

    def __init__(
        self, owner: Mapping[str, str], tensors: dict[str, torch.Tensor], examples: Sequence[Any], kept: Set[fx.Node]
    ) -> None:  # fmt: skip
        self.owner, self.tensors, self.examples, self.kept = owner, tensors, iter(examples), kept
        self.sizes: dict[Any, int] = {}
        self.constants: list[Op] = []
        self.nodes: dict[str, fx.Node] = {}
        self.read_by_kept: set[str] = set()
        self.specs: dict[str, TensorSpec] = {}
        self.leaves: tuple[str | None, ...] = ()

    def build(self, captured: fx.Graph, name: str) -> Graph:
        """Return the neutral graph."""
        inputs: list[str] = []
        outputs: tuple[str, ...] = ()
        ops: list[Op] = []
        for node in captured.nodes:
            if node.op == "placeholder" and node.name not in self.owner:
                inputs.append(node.name)
                self._read_sizes(node.meta["val"], next(self.examples))
                self._describe(node)
            elif node.op == "call_function" and is_tensor(node):
                op = self._op(node)
                ops += [*self.constants, op]
                self.constants.clear()
                self._describe(node)
            elif node.op == "call_function" and _is_tuple(node):
                ops.append(self._float(node))
            elif node.op == "output":
                self.leaves = tuple(a.name if isinstance(a, fx.Node) else None for a in node.args[0])
                outputs = tuple(dict.fromkeys(name for name in self.leaves if name is not None))
        return Graph(name, "NCHW", tuple(inputs), outputs, tuple(ops), self.specs)

    def _read_sizes(self, value: Any, example: Any) -> None:
        shapes = (value.shape[1:], example.shape[1:]) if isinstance(value, torch.Tensor) else ((), ())
        for size, given in zip(*shapes, strict=True):
            if not isinstance(size, int):
                self.sizes[size.node.expr] = given

    def keeps_batch(self, size: Any) -> bool:
        """Whether a captured size is a number, the batch as it is, or nothing of the batch."""
        return isinstance(size, int) or size.node.expr.is_symbol or size.node.expr.free_symbols <= self.sizes.keys()

    def _describe(self, node: fx.Node) -> None:
        value = node.meta["val"]
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        example = tuple(_for_example(d, self.sizes) for d in value.shape)
        once = all(have in (size, EXAMPLE_BATCH) for have, size in zip(example, shape, strict=True))
        dtype = str(value.dtype).removeprefix("torch.")
        self.specs[node.name] = TensorSpec(node.name, shape, dtype, () if once else example)

    def _op(self, node: fx.Node) -> Op:
        rule = RULES.get(node.target) if node not in self.kept else None
        matched = self._handled(node) if node.target in HANDLERS else rule(self, node) if rule else None
        if matched is None:
            return self._float(node)
        if matched.kind == "move":
            self._keep(node)
        inputs = tuple(self.read_as_tensor(node, i) for i in matched.inputs)
        return Op(node.name, matched.kind, inputs, (node.name,), matched.params, matched.attrs, scope_of(node))

    def _handled(self, node: fx.Node) -> Match | None:
        """Return what the user's handler says of a node."""
        handled = HANDLERS[node.target](node)
        if handled is None:
            return None
        params = self.params(**handled.params)
        if params is None:
            raise ConfigError(f"the handler of {node.target} names a parameter that is computed, or is no float parameter")
        return Match(handled.kind, [a for a in node.all_input_nodes if a.name not in self.owner], params, handled.attrs)

    def _keep(self, node: fx.Node) -> list[str]:
        """Keep a captured node as it is; returns the tensors that it reads, without parameters."""
        self.nodes[node.name] = node
        self.read_by_kept |= {self.owner[a.name] for a in node.all_input_nodes if a.name in self.owner}
        return [a.name for a in node.all_input_nodes if a.name not in self.owner and (is_tensor(a) or _is_tuple(a))]

    def _float(self, node: fx.Node) -> Op:
        inputs = self._keep(node)
        if _is_tuple(node):
            self.specs[node.name] = TensorSpec(node.name, (), "tuple")
        attrs = {"target": _name(node.target)} | ({"reason": REASON} if node in self.kept else {})
        return Op(node.name, "float", tuple(inputs), (node.name,), {}, attrs, scope_of(node))

    def read_as_tensor(self, node: fx.Node, arg: fx.Node | float) -> str:
        """Return the tensor of an operand: a tensor's own, or that of a constant for a parameter or a number."""
        if isinstance(arg, fx.Node) and arg.name not in self.owner:
            return arg.name
        if isinstance(arg, fx.Node):
            name = self.owner[arg.name]
        else:
            name = f"{NUMBERS}.{node.name}"
            self.tensors[name] = torch.tensor(float(arg))
        tensor = f"constant_{name.replace('.', '_')}"
        if tensor not in self.specs:
            self.specs[tensor] = TensorSpec(tensor, tuple(self.tensors[name].shape))
            self.constants.append(Op(tensor, "constant", (), (tensor,), {"value": name}, {}, scope_of(node)))
        return tensor

    def is_constant(self, arg: Any) -> bool:
        """Whether an operand is a parameter, a buffer or a number."""
        return not isinstance(arg, fx.Node) or arg.name in self.owner

    def is_operand(self, arg: Any) -> bool:
        """Whether an argument is a float32 tensor or can be a constant of that type."""
        if not isinstance(arg, fx.Node):
            return isinstance(arg, (int, float))
        return is_tensor(arg) and arg.meta["val"].dtype == torch.float32

    def param(self, arg: Any) -> str | None:
        """Return the name of the parameter behind an argument, or None where it is not one (or is not float32)."""
        if isinstance(arg, fx.Node) and arg.name in self.owner:
            name = self.owner[arg.name]
            return name if self.tensors[name].is_floating_point() else None
        return None

    def params(self, **roles: Any) -> dict[str, str] | None:
        """Return the names of the parameters by role, without the absent ones; None where one is computed."""
        named = {role: self.param(arg) for role, arg in roles.items() if arg is not None}
        return None if any(name is None for name in named.values()) else {k: v for k, v in named.items() if v is not None}


def _for_example(size: Any, sizes: Mapping[Any, int]) -> int:
    """Return a captured size for a batch of :data:`EXAMPLE_BATCH` and the other free sizes of the examples."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes.get(symbol, EXAMPLE_BATCH) for symbol in expression.free_symbols}))


def _name(target: Any) -> str:
    """Return the name of an operator, or of a function of ours that stands for several."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else str(getattr(target, "__name__", target))


def _is_tuple(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))

"""Insertion: a plan becomes an ``nn.Module`` of integer-grid nodes, as an FX graph that PyTorch's own tools understand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qat.adapters.torch.autograd.clip_mask import ClipMask
from qat.adapters.torch.autograd.moves import CARRYING, take_together
from qat.adapters.torch.capture.trace import Traced
from qat.adapters.torch.nodes.activation_grid import Grid
from qat.adapters.torch.nodes.attention import Embedding
from qat.adapters.torch.nodes.clip_masks import clip_masks
from qat.adapters.torch.nodes.computed_weight import ComputedWeight
from qat.adapters.torch.nodes.in_order import IN_ORDER
from qat.adapters.torch.nodes.kept_zeros import KeptZeros
from qat.adapters.torch.nodes.learned_scales import LearnedConv2d
from qat.adapters.torch.nodes.linear import Conv2d
from qat.adapters.torch.nodes.lookup import Function
from qat.adapters.torch.nodes.quantize import Dequantize, Quantize
from qat.adapters.torch.nodes.range_tracking import RangeTracker
from qat.adapters.torch.nodes.stored_weight import StoredWeight
from qat.adapters.torch.nodes.table import make_node
from qat.adapters.torch.nodes.training_act import Acting, WithinLimits
from qat.errors import CaptureError
from qat.graph.computed_weights import factor_of
from qat.graph.graph import Op
from qat.graph.kinds import KINDS
from qat.graph.training_acts import OUTPUT, TrainingAct, looks_up, touched
from qat.planning.plan import Plan

from .prepared_model import SCOPE, Prepared, PreparedModel


def insert(
    traced: Traced, plan: Plan, params: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray] = MappingProxyType({})
) -> PreparedModel:
    """Build the prepared model. ``params`` are those of the plan's graph, BatchNorm folded; ``masks`` those of pruned weights."""
    root = nn.Module()
    used = {name for p in plan.ops for name in p.op.params.values()}
    held = sorted((used | set(traced.state)) - set(traced.computed))
    _refuse_own_names(held)
    for name in held:
        value = torch.from_numpy(np.array(params[name])) if name in params else traced.state[name].detach().clone()
        _register(root, name, value, buffer=name in traced.buffers, frozen=name in traced.frozen)
    root.add_module(SCOPE, nn.Module())
    parts = {"weights": traced.computed or masks, "acts": plan.acts}
    for kind in ("nodes", "quantize", "dequantize", *(name for name, held in parts.items() if held)):
        root.get_submodule(SCOPE).add_module(kind, nn.Module())
    writer = _Writer(traced, plan, root, params, masks)
    graph = writer.write()
    prepared = PreparedModel(root, graph, type(root).__name__)
    facts = (
        plan,
        traced.signature,
        writer.kept_nodes,
        writer.forms,
        traced.origin,
        traced.own_loss,
        copy.deepcopy(traced.config),
    )
    return prepared.carry(Prepared(*facts)).to(traced.device)


def _refuse_own_names(tensors: Iterable[str]) -> None:
    """Raise CaptureError where the user's model has a tensor by a name that a prepared model uses for something else."""
    for first in dict.fromkeys(name.partition(".")[0] for name in tensors):
        if first == "meta" or hasattr(PreparedModel, first):  # a GraphModule has its meta from the start
            raise CaptureError(
                f"the model's own '{first}' has a name that every prepared PyTorch model uses: give that attribute another name, "
                f"such as '{first}_'"
            )


def _register(root: nn.Module, name: str, value: torch.Tensor, buffer: bool, frozen: bool) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if buffer or not value.is_floating_point():
        root.register_buffer(leaf, value)
    else:
        root.register_parameter(leaf, nn.Parameter(value, requires_grad=not frozen))


class _Writer:
    """Writes the FX graph, in which a tensor has up to two forms: float and on the grid."""

    def __init__(
        self, traced: Traced, plan: Plan, root: nn.Module, params: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]
    ) -> None:
        self.traced, self.plan, self.root, self.params, self.masks = traced, plan, root, params, masks
        self.graph = fx.Graph()
        self.grids = {name: Grid(group) for name, group in plan.groups.items()}
        self.owned: set[str] = set()
        self.real: dict[str, fx.Node] = {}
        self.grid: dict[str, fx.Node] = {}
        self.symbols: dict[fx.Node, fx.Node] = {}
        self.computed: dict[str, fx.Node] = {}
        self.kept_nodes: dict[str, str] = {}
        self.made: dict[str, nn.Module] = {}
        self.forms: dict[str, str] = {}
        self.in_order = IN_ORDER.get(plan.target.kernels, {})
        self.clip_masks = clip_masks(plan)
        self.writers = {t: p for p in plan.ops for t in p.op.outputs}
        self.touched = touched(plan.acts, [p.op for p in plan.ops])
        self.reader = ""
        self.acts = {(act.tensor, reader): act for act in plan.acts for reader in act.readers or ("",)}
        self.acted: dict[tuple[str, bool], fx.Node] = {}

    def write(self) -> fx.Graph:
        for name in self.plan.graph.inputs:
            self.real[name] = self.graph.placeholder(name)
        for planned in self.plan.ops:
            op = planned.op
            self.reader = op.name
            if planned.integer and planned.keeps_framework:  # the operator as captured, on integers
                captured = self.traced.nodes[op.name]
                copied = self.grid[op.output] = self.graph.node_copy(captured, partial(self._captured_grid_arg, op, captured))
                copied.target = CARRYING.get(captured.target, captured.target)
                self.forms[op.output] = self.kept_nodes[op.name] = self.grid[op.output].name
            elif planned.integer:
                read = planned.grid_inputs
                args = (*(self._of_kernel(op, t) if t in read else self._as_float(t) for t in op.inputs), *self._params(op))
                grids = tuple(self._grid_of(t) for t in (*read, *op.outputs))
                node = make_node(planned, grids, self.plan.target.kernels)
                assert node is not None
                self.made[op.name] = node
                if isinstance(node, LearnedConv2d):
                    node.start(self.params[op.params["weight"]])
                node.reads_acts = not self.touched.isdisjoint(op.inputs)
                node.clip_mask = self.clip_masks.get(op.output, ClipMask.BYTES)
                if isinstance(node, Function) and self.clip_masks.get(op.inputs[0]) is ClipMask.READERS:
                    node.writer = self.writers[op.inputs[0]]
                self.grid[op.output] = self._call("nodes", op.name, self._owning(node, grids[-1]), args)
                self.forms[op.output] = self.grid[op.output].name
            elif (node := make_node(planned, (), self.plan.target.kernels)) is not None:
                args = (*(self._as_float(t) for t in op.inputs), *self._params(op))
                self.made[op.name] = node
                self.real[op.output] = self._call("nodes", op.name, node, args)
                if planned.keeps_framework:
                    self.kept_nodes[op.name] = self.real[op.output].name
            else:
                captured = self.traced.nodes[op.name]
                copied = self.real[op.output] = self.graph.node_copy(captured, self._captured_arg)
                copied.target = self.in_order.get(captured.target, captured.target)
                self.kept_nodes[op.name] = self.real[op.output].name
        take_together(self.graph, {node: self.plan.graph.tensors[t].shape for t, node in self.grid.items()})
        for planned in self.plan.ops:
            if planned.tied:
                embedding, head = self.made[planned.op.name], self.made[planned.tied]
                assert isinstance(embedding, Embedding) and isinstance(head, (Conv2d, StoredWeight))
                embedding.head = (head,)
        self.reader = OUTPUT
        signature = self.traced.signature
        values = [None if leaf is None else self._as_float(leaf) for leaf in signature.leaves]
        self.root.get_submodule(SCOPE).add_module("range_tracking", RangeTracker(self.grids.values()))
        self.graph.call_module(f"{SCOPE}.range_tracking", ())
        self.graph.output(signature.write(values) if signature.is_plain else tuple(values))
        self.graph.lint()
        return self.graph

    def _call(self, kind: str, name: str, module: nn.Module, args: tuple[Any, ...]) -> fx.Node:
        name = f"{name}_" if hasattr(nn.Module, name) else name  # a tensor of x.to(...), or an input, can be called "to"
        self.root.get_submodule(f"{SCOPE}.{kind}").add_module(name, module)
        return self.graph.call_module(f"{SCOPE}.{kind}.{name}", args)

    def _owning(self, module: nn.Module, grid: Grid) -> nn.Module:
        """Register a grid with the first module that writes to it, so that the state holds it once."""
        if grid.group.name not in self.owned:
            self.owned.add(grid.group.name)
            module.add_module("grid", grid)
        return module

    def _grid_of(self, tensor: str) -> Grid:
        return self.grids[self.plan.group_of[tensor]]

    def _of_kernel(self, op: Op, tensor: str) -> fx.Node:
        """Return a tensor on the grid as a kernel reads it; one that looks its input up reads what is within the limits."""
        read = self._on_grid(tensor)
        if tensor not in self.touched or not looks_up(op):
            return read
        return self._call("acts", f"{op.name}_{tensor}", WithinLimits(tensor, self._grid_of(tensor)), (read,))

    def _act(self, tensor: str) -> TrainingAct | None:
        return self.acts.get((tensor, self.reader)) or self.acts.get((tensor, ""))

    def _is_kernels(self, tensor: str) -> bool:
        return tensor in self.writers and self.writers[tensor].integer

    def _acting(self, act: TrainingAct, on_grid: bool) -> fx.Node:
        """Return the tensor of an act as training changes it: where it is written, so that its other form is changed alike."""
        if (act.name, on_grid) not in self.acted:
            tensor, name = act.tensor, f"{act.name}_{act.tensor}"
            grid = self._grid_of(tensor) if tensor in self.plan.group_of else None
            if on_grid != self._is_kernels(tensor):
                assert grid is not None
                module: nn.Module = Quantize(tensor, grid, self.plan.target.kernels) if on_grid else Dequantize(grid)
                module, source = self._owning(module, grid) if on_grid else module, self._acting(act, not on_grid)
                name += "_form"
            else:
                module = Acting(copy.deepcopy(self.traced.act_modules[act.name]), grid if on_grid else None)
                source = self.grid[tensor] if on_grid else self.real[tensor]
            module.tensor = tensor  # type: ignore[assignment]
            self.acted[act.name, on_grid] = self._call("acts", name, module, (source,))
            if on_grid:
                self.forms.setdefault(tensor, self.acted[act.name, on_grid].name)
        return self.acted[act.name, on_grid]

    def _on_grid(self, tensor: str) -> fx.Node:
        if (act := self._act(tensor)) is not None:
            return self._acting(act, on_grid=True)
        if tensor not in self.grid:
            grid = self._grid_of(tensor)
            module = self._owning(Quantize(tensor, grid, self.plan.target.kernels), grid)
            self.grid[tensor] = self._call("quantize", tensor, module, (self.real[tensor],))
            self.forms[tensor] = self.grid[tensor].name
        return self.grid[tensor]

    def _as_float(self, tensor: str) -> fx.Node:
        if (act := self._act(tensor)) is not None:
            return self._acting(act, on_grid=False)
        if tensor not in self.real:
            module = Dequantize(self._grid_of(tensor))
            self.real[tensor] = self._call("dequantize", tensor, module, (self.grid[tensor],))
        return self.real[tensor]

    def _params(self, op: Op) -> tuple[fx.Node | None, ...]:
        roles = KINDS[op.kind].params
        return tuple(self._param(op.params[role]) if role in op.params else None for role in roles)

    def _param(self, name: str) -> fx.Node:
        """Read a parameter; one that is computed from others is computed once in a pass."""
        if name not in self.traced.computed and name not in self.masks:
            return self.graph.get_attr(name)
        path = name.replace(".", "_")
        if name not in self.computed and name in self.masks:
            mask = KeptZeros(name, torch.from_numpy(self.masks[name]))
            self.computed[name] = self._call("weights", path, mask, (self.graph.get_attr(name),))
        elif name not in self.computed:
            weight = self.traced.computed[name]
            factor = torch.from_numpy(np.array(self.params[factor_of(name)]))
            module = ComputedWeight(name, weight.graph, factor, weight.value)
            args = tuple(self.graph.get_attr(source) for source in weight.sources)
            self.computed[name] = self._call("weights", path, module, args)
        return self.computed[name]

    def _captured_grid_arg(self, op: Op, captured: fx.Node, node: fx.Node) -> fx.Node:
        """Translate an argument of a data movement, whose only tensor is what the plan has it read: a factor may have left."""
        if op.inputs and node is captured.args[0]:
            return self._on_grid(op.inputs[0])
        if node.name in self.real or node.name in self.grid:
            return self._on_grid(node.name)
        return self._captured_arg(node)

    def _captured_arg(self, node: fx.Node) -> fx.Node:
        """Translate an argument of a captured float operator: a parameter, a tensor, or a size computed from one."""
        owner = self.traced.owner.get(node.name)
        if owner is not None:
            return self._param(owner)
        if node.name in self.real or node.name in self.grid:
            return self._as_float(node.name)
        if node not in self.symbols:
            self.symbols[node] = self.graph.node_copy(node, self._size_arg)
        return self.symbols[node]

    def _size_arg(self, node: fx.Node) -> fx.Node:
        # Both forms have the same sizes; reading the form that exists saves a dequantize pass.
        return self.real.get(node.name) or self.grid.get(node.name) or self._captured_arg(node)

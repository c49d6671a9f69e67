"""A block of a prepared model as a differentiable function: in float, or with its quantization simulated.

For :mod:`qat.calibration.reconstruction`. The model is a float twin (:mod:`qat.calibration.float_twin`), whose nodes compute in
float; the simulation rounds what they return. Values and gradients are NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from qat.adapters.torch.nodes.computed_weight import ComputedWeight
from qat.arithmetic.simulation import Simulation
from qat.planning.blocks import Block

from .inference import device_of
from .prepared_model import SCOPE, PreparedModel


def block_outputs(
    twin: PreparedModel, block: Block, values: Mapping[str, np.ndarray], simulation: Simulation | None
) -> dict[str, np.ndarray]:
    """Return the outputs of a block by name, from the values that it reads and the model's inputs; None: in float."""
    with torch.no_grad():
        found = _Pass(twin, values, simulation).run(block.outputs)
    return {name: y.cpu().numpy() for name, y in found.items()}


def block_gradients(
    twin: PreparedModel,
    block: Block,
    values: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    importance: Mapping[str, np.ndarray],
    simulation: Simulation,
    learned: Sequence[str],
) -> tuple[float, dict[str, np.ndarray], dict[str, float]]:
    """Return the weighted squared error of a block's outputs, and its gradients by the weights and by scales.

    Args:
        twin: the float model.
        block: of it.
        values: that the block reads, and the model's inputs.
        targets: the float outputs.
        importance: the weight of each number of an output; broadcasts.
        simulation: with the weights that get a gradient.
        learned: the groups whose scales get one.
    """
    current = _Pass(twin, values, simulation, learned)
    found = current.run(block.outputs)
    error = torch.zeros((), device=device_of(twin))
    for name, weight in importance.items():
        y, want = found[name], torch.from_numpy(targets[name])
        error = error + (torch.from_numpy(weight).to(y) * (y - want.to(y)).square()).sum()
    leaves = {**current.weights, **current.scales}
    if not leaves or not error.requires_grad:
        return float(error.detach()), {}, {}
    gradients = torch.autograd.grad(error, list(leaves.values()), allow_unused=True)
    by_name = dict(zip(leaves, gradients, strict=True))
    weights = {name: g.cpu().numpy() for name in current.weights if (g := by_name[name]) is not None}
    scales = {name: float(g) for name in current.scales if (g := by_name[name]) is not None}
    return float(error.detach()), weights, scales


def output_gradients(
    twin: PreparedModel,
    inputs: Mapping[str, np.ndarray],
    tensors: Sequence[str],
    slopes: Callable[[str, np.ndarray], np.ndarray],
    ends: Sequence[str] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return tensors of the float model, each with the gradient by it of the outputs times ``slopes(name, values)``, summed.

    A tensor from which no gradient leads to an output is left out. ``ends`` are tensors in place of the outputs.
    """
    current = _Pass(twin, inputs, None)
    for x in current.known.values():
        if x.is_floating_point():
            x.requires_grad_()
    outputs = twin.plan.graph.outputs if ends is None else ends
    with torch.enable_grad():
        found = current.run([*tensors, *outputs], tracing=True)
        total = sum(
            (y * torch.from_numpy(slopes(name, y.detach().cpu().numpy())).to(y)).sum()
            for name in outputs
            if (y := found[name]).is_floating_point()
        )
        wanted = {name: found[name] for name in tensors if found[name].requires_grad}
        if not isinstance(total, Tensor) or not total.requires_grad or not wanted:
            return {}
        gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    pairs = zip(wanted.items(), gradients, strict=True)
    return {name: (x.detach().cpu().numpy(), g.cpu().numpy()) for (name, x), g in pairs if g is not None}


class _Pass:
    """One run of the FX nodes that lie between some tensors."""

    def __init__(
        self,
        twin: PreparedModel,
        values: Mapping[str, np.ndarray],
        simulation: Simulation | None,
        learned: Iterable[str] = (),
    ) -> None:
        self.twin, self.nodes = twin, _nodes(twin)
        device = device_of(twin)
        self.known: dict[fx.Node, Any] = {self.nodes[name]: torch.from_numpy(x).to(device) for name, x in values.items()}
        self.simulation, self.rounded = simulation, 0
        self.grids, group_of = ({}, {}) if simulation is None else (simulation.grids, simulation.group_of)
        self.tensor_of = {node: tensor for tensor, node in twin.prepared.forms.items() if tensor in self.grids}
        weights = {} if simulation is None else simulation.weights
        self.weights = {name: torch.from_numpy(w).to(device).requires_grad_() for name, w in weights.items()}
        self.group_of = group_of
        scales, factors = {group_of[tensor]: grid[0] for tensor, grid in self.grids.items()}, set(learned)
        self.scales = {g: torch.tensor(s, device=device, requires_grad=True) for g, s in scales.items() if g in factors}

    def run(self, wanted: Iterable[str], tracing: bool = False) -> dict[str, Tensor]:
        """Return tensors by name. ``tracing``: the parameters of the twin have gradients, so that every tensor has one."""
        targets = {name: self.nodes[name] for name in wanted}
        for node in self._needed(targets.values()):
            self.known[node] = self._simulated(node, self._computed(node, tracing))
        return {name: self.known[node] for name, node in targets.items()}

    def _needed(self, targets: Iterable[fx.Node]) -> list[fx.Node]:
        """Return the nodes between what is known and the targets, in order."""
        found, waiting = set(), [node for node in targets if node not in self.known]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += [n for n in node.all_input_nodes if n not in self.known]
        return [node for node in self.twin.graph.nodes if node in found]

    def _computed(self, node: fx.Node, tracing: bool) -> Any:
        args: Any = fx.node.map_arg(node.args, lambda n: self.known[n])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: self.known[n])
        if node.op == "get_attr":
            name = str(node.target)
            tensor = self.twin.tensor(name)
            return self.weights.get(name, tensor if tracing else tensor.detach())
        if node.op == "call_module":
            module = self.twin.get_submodule(str(node.target))
            if isinstance(module, ComputedWeight) and module.name in self.weights:
                return self.weights[module.name]
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _simulated(self, node: fx.Node, y: Any) -> Any:
        tensor = self.tensor_of.get(node.name)
        if tensor is None:
            return y
        scale, lo, hi = self.grids[tensor]
        held = self.scales.get(self.group_of[tensor], scale)
        v = y / held
        rounded = (v + (v.round() - v).detach()).clamp(lo, hi) * held
        assert self.simulation is not None
        if not self.simulation.drop:
            return rounded
        self.rounded += 1
        return torch.where(torch.from_numpy(self.simulation.dropped(y.shape, self.rounded)).to(y.device), y, rounded)


def _nodes(model: PreparedModel) -> dict[str, fx.Node]:
    """Return the FX node that writes each tensor first: an input, or an operator's own."""
    by_name = {node.name: node for node in model.graph.nodes}
    called = {str(node.target): node for node in model.graph.nodes if node.op == "call_module"}
    found = {str(node.target): node for node in model.graph.nodes if node.op == "placeholder"}
    prepared = model.prepared
    for planned in model.plan.ops:
        op = planned.op
        if planned.integer:
            found[op.output] = by_name[prepared.forms[op.output]]
        elif op.name in prepared.kept_nodes:
            found[op.output] = by_name[prepared.kept_nodes[op.name]]
        else:
            path = f"{SCOPE}.nodes.{op.name}"
            found[op.output] = called[path if path in called else f"{path}_"]
    return found

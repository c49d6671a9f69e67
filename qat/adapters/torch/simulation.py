"""Simulation: a calibrated model in float with single roundings of its integer kernels, to see what each of them costs."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qat.adapters.torch.nodes.base import Node
from qat.adapters.torch.nodes.quantize import Dequantize, Quantize, fake_quantized
from qat.adapters.torch.nodes.range_tracking import RangeTracker
from qat.planning.rounding import EXACT, Rounding, Variant
from qat.typing import Directions

from .inference import device_of, fitting
from .prepared_model import PreparedModel


def simulate(
    model: PreparedModel, inputs: tuple[Tensor, ...], variants: Sequence[Variant]
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Yield the index of each variant and the model's outputs with its roundings alone, in the order of their first roundings.

    What stands before the first rounding is computed once for all variants.
    """
    run = _Pass(model, inputs)
    beginning = defaultdict(list)
    for index, variant in enumerate(variants):
        beginning[min(map(run.place, run.rounded(variant)), default=len(run.nodes) - 1)].append(index)
    with _evaluating(model), torch.no_grad():
        for place in range(len(run.nodes)):
            for index in beginning[place]:
                yield index, _arrays(run.branch(variants[index]).finish(place))
            run.step(place)


def first_order(
    model: PreparedModel, inputs: tuple[Tensor, ...], variants: Sequence[Variant], directions: Directions
) -> np.ndarray:
    """Return how far each variant moves the outputs along directions, to first order in its roundings.

    Args:
        model: a calibrated model.
        inputs: a batch.
        variants: the roundings, each by itself.
        directions: from the float outputs to some directions, each an array for each output.

    Returns:
        float64 of shape ``(directions, variants, samples)``: the scalar product of a direction with the change of a sample's
        outputs. Where samples cannot be told apart, as at a parameter that is rounded, their sum stands at the first.
    """
    with _evaluating(model), torch.enable_grad():
        run = _Pass(model, inputs, variants)
        outputs = run.finish(0)
        ends = [i for i, y in enumerate(outputs) if y.requires_grad]
        found = []
        for direction in directions(_arrays(outputs)):
            along = [torch.from_numpy(np.asarray(direction[i], np.float32)).to(outputs[i].device) for i in ends]
            slopes = torch.autograd.grad(
                [outputs[i] for i in ends], [y for y, _, _ in run.tapped], along, retain_graph=True, allow_unused=True
            )
            moved = np.zeros((len(variants), len(inputs[0])))
            for (_, axis, changes), slope in zip(run.tapped, slopes, strict=True):
                for index, change in changes.items() if slope is not None else ():
                    moved[index] += _by_sample(slope * change, axis, len(inputs[0]))
            found.append(moved)
    return np.stack(found)


def float_values(model: PreparedModel, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """Return the float values of a model's inputs and of its operators' outputs, by tensor; the model need not be calibrated."""
    run = _Pass(model, inputs)
    names = {node: p.op.output for p in model.plan.ops if (node := model.prepared.kept_nodes.get(p.op.name)) is not None}
    found: dict[str, np.ndarray] = {}
    with _evaluating(model), torch.no_grad():
        for place, node in enumerate(run.nodes):
            run.step(place)
            name = str(node.target) if node.op == "placeholder" else names.get(node.name, run.roles.get(node, ("", ""))[1])
            value = run.env.get(node)
            if name and isinstance(value, Tensor):
                found[name] = value.cpu().numpy()
    return found


def _by_sample(products: Tensor, axis: int | None, samples: int) -> np.ndarray:
    """Return the sums of products by sample, in float64; all at the first where no ``axis`` is that of the samples."""
    products = products.double().cpu()
    if axis is None or products.shape[axis] % samples:
        return np.pad(products.sum().reshape(1).numpy(), (0, samples - 1))
    return np.asarray(products.movedim(axis, 0).reshape(samples, -1).sum(1).numpy())


def _arrays(outputs: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(y.detach().cpu().numpy() for y in outputs)


@contextmanager
def _evaluating(model: PreparedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class _Pass(fx.Interpreter):
    """A pass in float with the roundings of a variant, node by node.

    Attributes:
        nodes: the FX nodes in order.
        variant: the roundings of the pass.
        taps: variants whose changes are noted on the way; the pass itself stays float.
        tapped: of each place that one of them rounds: the float tensor, the axis of its samples, and the changes by variant.
    """

    def __init__(self, model: PreparedModel, inputs: tuple[Tensor, ...], taps: Sequence[Variant] = ()) -> None:
        super().__init__(model)
        self.args_iter = iter([x.to(device_of(model)) for x in fitting(model, inputs)])
        self.nodes, self.plan = list(model.graph.nodes), model.plan
        self.variant: Variant = {}
        self.taps = taps
        self.tapped: list[tuple[Tensor, int | None, dict[int, Tensor]]] = []
        entering = {node: tensor for tensor, node in model.prepared.forms.items()}
        writers = {t: p.op.name for p in self.plan.ops for t in p.op.outputs}
        #: The name in a variant and the tensor of each node that can round.
        self.roles: dict[fx.Node, tuple[str, str]] = {}
        for node in self.nodes:
            module = self.fetch_attr(node.target) if node.op == "call_module" else None
            if isinstance(module, Node):
                self.roles[node] = (module.planned.op.name, module.planned.op.output)
            elif isinstance(module, Quantize):
                tensor = entering[node.name]
                self.roles[node] = (writers.get(tensor, tensor), tensor)

    def rounded(self, variant: Variant) -> list[str]:
        """Return the names of what a variant rounds."""
        return [name for name, rounding in variant.items() if rounding != EXACT]

    def place(self, name: str) -> int:
        """Return the index of the first node that rounds what a variant calls ``name``."""
        return next(i for i, node in enumerate(self.nodes) if node in self.roles and self.roles[node][0] == name)

    def branch(self, variant: Variant) -> _Pass:
        """Return a pass that goes on from the values so far with the roundings of a variant."""
        made = copy.copy(self)
        made.env, made.variant = dict(self.env), variant
        return made

    def step(self, place: int) -> None:
        """Compute one node, and let go of what nothing reads any more."""
        node = self.nodes[place]
        self.env[node] = self.run_node(node)
        for done in self.user_to_last_uses.get(node, ()):
            self.env.pop(done, None)

    def finish(self, place: int) -> list[Tensor]:
        """Compute the nodes from a place on, and return the outputs."""
        for i in range(place, len(self.nodes)):
            self.step(i)
        return [y for y in pytree.tree_leaves(self.env[self.nodes[-1]]) if isinstance(y, Tensor)]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a parameter, of which no gradient is asked."""
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, Tensor) else value

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node in float, with the rounding of the variant."""
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, RangeTracker):
            return None
        if not isinstance(module, (Node, Quantize, Dequantize)):
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        name, tensor = self.roles.get(n, ("", ""))
        y = _computed(module, self.variant.get(name, EXACT), args)
        changing = {i: variant[name] for i, variant in enumerate(self.taps) if variant.get(name, EXACT) != EXACT}
        if not changing:
            return y
        y = y if y.requires_grad else y.detach().requires_grad_()
        with torch.no_grad():
            changes = {i: _computed(module, rounding, args) - y for i, rounding in changing.items()}
        shape = self.plan.graph.tensors[tensor].shape
        self.tapped.append((y, shape.index(None) if None in shape else None, changes))
        return y


def _computed(module: Node | Quantize | Dequantize, rounding: Rounding, args: tuple[Any, ...]) -> Tensor:
    if isinstance(module, Node):
        return module.simulated(rounding, *args)
    x: Tensor = args[0]
    if isinstance(module, Quantize) and rounding.activation:
        return fake_quantized(x, module.grids[0], str(module.kernels))
    return x

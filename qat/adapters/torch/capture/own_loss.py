"""The loss that a model computes itself from labels, as those of Hugging Face do: ``model(input_ids=x, labels=y).loss``.

The prepared model has no labels, and its artifact no loss. Called with labels, it computes the loss from its own outputs by the
operators with which the float model computes it from its own: those between the outputs, the labels and the loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qat.errors import DataError, reason_of
from qat.system.silence import quiet

from .decompose import functional
from .float_copy import copy_of

#: Arguments of ``forward`` that are labels, besides those with "label" in their names: of Hugging Face's question answering.
_POSITIONS = ("start_positions", "end_positions")
#: Tensors are captured with this number of samples: any but 0 and 1, of which PyTorch makes constants.
_SAMPLES = 3


class OwnLoss:
    """The loss of a model by its labels.

    Attributes:
        labels: the arguments of ``forward`` that are labels.
        name: of the model's class.
    """

    def __init__(self, model: nn.Module, labels: tuple[str, ...]) -> None:
        self.labels, self.name = labels, type(model).__name__
        self._model = copy_of(model).to("meta").eval()  # its code alone: tensors without numbers
        self._losses: dict[tuple[Any, ...], fx.GraphModule] = {}

    def __deepcopy__(self, memo: object) -> OwnLoss:
        return self

    def added_to(self, outputs: Any, arguments: Mapping[str, Any], labels: Mapping[str, Tensor]) -> Any:
        """Return the outputs with the loss before them.

        Args:
            outputs: of the prepared model: a mapping, as Hugging Face's are.
            arguments: with which the model was called, without labels.
            labels: by their arguments' names.

        Raises:
            DataError: the loss cannot be computed from the outputs.
        """
        if not isinstance(outputs, Mapping):
            raise DataError(f"{self.name} returns no mapping that a loss could be added to: compute the loss outside the model")
        key = tuple((name, x.dtype, x.shape[1:], x.device) for name, x in labels.items())
        if key not in self._losses:
            self._losses[key] = self._captured(outputs, {**arguments, **labels}, next(iter(labels.values())).device)
        known = {**arguments, **labels, **{f"output {name}": value for name, value in outputs.items()}}
        module = self._losses[key]
        loss = module(*(known[name] for name in module.meta["reads"]))
        return type(outputs)(**{"loss": loss, **outputs})

    def _captured(self, outputs: Mapping[str, Any], arguments: Mapping[str, Any], device: torch.device) -> fx.GraphModule:
        tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
        shaped = {n: torch.empty((_SAMPLES, *x.shape[1:]), dtype=x.dtype, device="meta") for n, x in tensors.items()}
        shapes = {n: {0: torch.export.Dim.AUTO} if n in shaped else None for n in arguments}
        try:
            with torch.no_grad(), quiet():
                captured = torch.export.export(
                    self._model, (), {**arguments, **shaped}, dynamic_shapes=_by_keyword(self._model, shapes), strict=False
                )
                exported = functional(captured)
        except Exception as error:  # torch.export's own share no base class but this
            raise DataError(f"the loss of {self.name} cannot be captured ({reason_of(error)}): {_OUTSIDE}") from error
        return self._between(exported, outputs, device)

    def _between(
        self, exported: torch.export.ExportedProgram, outputs: Mapping[str, Any], device: torch.device
    ) -> fx.GraphModule:
        """Return the operators between the outputs, the inputs and the loss."""
        (last,) = (node for node in exported.graph.nodes if node.op == "output")
        spec = exported.call_spec.out_spec
        assert spec is not None
        returned = pytree.tree_unflatten(list(last.args[0]), spec)
        if not isinstance(returned, Mapping) or not isinstance(returned.get("loss"), fx.Node):
            raise DataError(f"{self.name} returns no loss for {', '.join(self.labels)}: {_OUTSIDE}")
        known = {node: f"output {name}" for name, node in returned.items() if name in outputs and isinstance(node, fx.Node)}
        inputs = set(exported.graph_signature.user_inputs)
        graph, made, reads = fx.Graph(), {}, []

        def copied(node: fx.Node) -> fx.Node:
            if node not in made and (node in known or node.op == "placeholder"):
                if node not in known and node.name not in inputs:
                    raise DataError(f"{self.name} computes its loss from more than its outputs and labels: {_OUTSIDE}")
                made[node] = graph.placeholder(node.name)
                reads.append(known.get(node, node.name))
            return made[node]

        needed, waiting = {returned["loss"]}, [returned["loss"]]
        while waiting:
            node = waiting.pop()
            new = [] if node in known else [source for source in node.all_input_nodes if source not in needed]
            needed.update(new)
            waiting += new
        for node in exported.graph.nodes:
            if node in needed and node.op == "call_function" and node not in known:
                made[node] = graph.node_copy(node, copied)
                if "device" in node.kwargs:
                    made[node].kwargs = {**made[node].kwargs, "device": device}
        graph.output(copied(returned["loss"]))
        module = fx.GraphModule(nn.Module(), graph)
        module.meta["reads"] = tuple(reads)
        return module


_OUTSIDE = "compute the loss outside the model (compute_loss_func= of the Trainer)"


def own_loss_of(model: nn.Module, given: Mapping[str, Any]) -> OwnLoss | None:
    """Return the loss that a Hugging Face model computes of labels which are not among the arguments ``given``; else None."""
    if not hasattr(getattr(model, "config", None), "save_pretrained"):
        return None
    names = inspect.signature(model.forward).parameters
    labels = tuple(name for name in names if ("label" in name or name in _POSITIONS) and given.get(name) is None)
    return OwnLoss(model, labels) if labels else None


def _by_keyword(model: nn.Module, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shapes as torch.export takes them: those of ``**kwargs`` by its name."""
    parameters = inspect.signature(model.forward).parameters
    free = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), "")
    named = {name: shape for name, shape in shapes.items() if name in parameters}
    rest = {name: shape for name, shape in shapes.items() if name not in parameters}
    return named | ({free: rest} if rest else {})

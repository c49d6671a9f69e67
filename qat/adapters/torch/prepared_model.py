"""The prepared model: an FX graph of integer-grid nodes, which PyTorch's own tools understand."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qat.adapters.torch.nodes.activation_grid import Grid
from qat.adapters.torch.nodes.computed_weight import ComputedWeight
from qat.adapters.torch.nodes.kept_zeros import KeptZeros
from qat.errors import ConfigError
from qat.planning.plan import Plan
from qat.program.file_origin import FileOrigin

from .capture.own_loss import OwnLoss
from .signature import Signature

#: A module that a weight passes through.
W = TypeVar("W", bound=nn.Module)

#: The submodule that holds the nodes; parameters stand beside it under their own names.
SCOPE = "_qat"


@dataclass(frozen=True)
class Prepared:
    """The facts that a prepared model carries with it.

    Attributes:
        plan: the plan that it was built from.
        signature: the form of the inputs and outputs.
        kept_nodes: the FX nodes of operators that keep PyTorch's implementation, by operator.
        forms: the FX nodes of values on the grid, by tensor.
        origin: the file that the float model was read from; None where it was not.
        own_loss: the loss that the model computes of labels; None where it has none.
        config: that of a Hugging Face model; None of any other.
    """

    plan: Plan
    signature: Signature
    kept_nodes: Mapping[str, str]
    forms: Mapping[str, str]
    origin: FileOrigin | None = None
    own_loss: OwnLoss | None = None
    config: Any = None


class PreparedModel(fx.GraphModule):
    """A model on the integer grid. An ordinary ``nn.Module``: train it with any loop, compile it, copy it, save its state.

    Parameters keep the names and units of the float model; BatchNorm is folded into them. Until the model is calibrated it
    computes in float.
    """

    qat_prepared = True
    #: For Hugging Face's Trainer: the mean loss of a batch is not divided by the tokens of the batches that are accumulated.
    accepts_loss_kwargs = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take inputs and return outputs as the user's model does; ``forward`` takes and returns the tensors alone."""
        signature, own = self.prepared.signature, self.prepared.own_loss
        labels = {} if own is None else {name: kwargs.pop(name) for name in own.labels if name in kwargs}
        labels = {name: value for name, value in labels.items() if value is not None}
        outputs = super().__call__(*signature.read(args, kwargs))
        outputs = outputs if signature.is_plain else signature.write(outputs)
        return own.added_to(outputs, signature.arguments(args, kwargs), labels) if own is not None and labels else outputs

    @property
    def plan(self) -> Plan:
        """The plan that the model was built from."""
        return self.prepared.plan

    @property
    def prepared(self) -> Prepared:
        """The facts that the model carries with it."""
        prepared: Prepared = self.meta["qat"]
        return prepared

    @property
    def config(self) -> Any:
        """The configuration of a Hugging Face model, a copy of the float model's."""
        if self.prepared.config is None:
            raise AttributeError("config")
        return self.prepared.config

    def save_pretrained(self, save_directory: str | Path, state_dict: Mapping[str, Tensor] | None = None, **_: Any) -> None:
        """Save weights and ranges (``model.safetensors``, for :func:`qat.load_prepared`) and a Hugging Face configuration."""
        from safetensors.torch import save_file

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.state_dict() if state_dict is None else state_dict
        save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        if self.prepared.config is not None:
            self.prepared.config.save_pretrained(folder)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what Hugging Face's Trainer asks for: the nodes keep their inputs in bytes already."""
        raise ConfigError(
            "a prepared model has no gradient checkpointing: leave out gradient_checkpointing, and take a smaller batch with "
            "gradient_accumulation_steps where memory is short"
        )

    gradient_checkpointing_enable = activation_checkpointing_enable

    def carry(self, prepared: Prepared) -> PreparedModel:
        """Let the model carry its facts, and show libraries that read signatures the labels that it takes."""
        self.meta["qat"] = prepared
        if prepared.own_loss is not None:
            kind, forward = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.signature(type(self).forward)
            labels = [inspect.Parameter(name, kind, default=None) for name in prepared.own_loss.labels]
            given = [p for p in forward.parameters.values() if p.name not in prepared.own_loss.labels]
            type(self).forward.__signature__ = forward.replace(parameters=[*given, *labels])  # type: ignore[attr-defined]
            type(self).__name__ = prepared.own_loss.name  # by it the Trainer knows question answering
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedModel:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, PreparedModel)
        return copied.carry(copied.prepared)

    def tensor(self, name: str) -> Tensor:
        """Return a parameter, or a buffer where the float model keeps a weight as one, or a weight that is computed."""
        if (node := self.computed.get(name)) is not None:
            return self._computed(node)
        owner, _, last = name.rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(owner), last)
        return tensor

    def set_tensor(self, name: str, value: Tensor) -> None:
        """Overwrite what :meth:`tensor` returns. A weight that is computed is corrected: its parameters stay."""
        with torch.no_grad():
            if (node := self.computed.get(name)) is None:
                zeros = [kept.mask for kept in self._weights(KeptZeros).values() if kept.name == name]
                self.tensor(name).copy_(value * zeros[0].to(value.device) if zeros else value)
            else:
                correction = self.get_submodule(str(node.target)).get_buffer("correction")
                correction += value.to(correction) - self._computed(node)

    @property
    def computed(self) -> dict[str, fx.Node]:
        """The FX nodes of weights that are computed from parameters, by the name of the weight."""
        made = self._weights(ComputedWeight)
        return {made[str(node.target)].name: node for node in self.graph.nodes if str(node.target) in made} if made else {}

    def _weights(self, kind: type[W]) -> dict[str, W]:
        """Return the modules of one kind that weights pass through, by path."""
        held = getattr(self.get_submodule(SCOPE), "weights", nn.Module())
        return {f"{SCOPE}.weights.{name}": module for name, module in held.named_children() if isinstance(module, kind)}

    def _computed(self, node: fx.Node) -> Tensor:
        sources = (self.tensor(str(source.target)) for source in node.all_input_nodes)
        weight: Tensor = self.get_submodule(str(node.target))(*sources)
        return weight

    @property
    def grids(self) -> dict[str, Grid]:
        """The activation scales by group name."""
        return {grid.group.name: grid for grid in self.modules() if isinstance(grid, Grid)}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the graph itself: FX would pickle its code alone, and lose :attr:`prepared`."""
        root = nn.Module()
        root.__dict__.update({key: self.__dict__[key] for key in root.__dict__ if key in self.__dict__})
        # Without the code that computes a loss: a class of the user's own may be known to this process alone.
        graph, operators = _in_words(self.graph)
        return _rebuild, (root, graph, operators, self._get_name(), replace(self.prepared, own_loss=None))


def _in_words(graph: fx.Graph) -> tuple[fx.Graph, dict[str, str]]:
    """Return a copy of a graph that pickle takes, and by node the names of the operators of ``torch.ops``, which it does not.

    The copy refers to no model, without which pickle would never end, and has no meta data, which hold the capture's tensors.
    """
    copied, made, operators = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, str]()
    for node in graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            operators[node.name] = str(target)
            target = operator.attrgetter  # stands for the operator
        args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)
        made[node] = copied.create_node(node.op, target, args, kwargs, node.name, node.type)
    return copied, operators


def _rebuild(root: nn.Module, graph: fx.Graph, operators: Mapping[str, str], name: str, prepared: Prepared) -> PreparedModel:
    for node in graph.nodes:
        if node.name in operators:
            node.target = operator.attrgetter(operators[node.name])(torch.ops)
    model = PreparedModel(root, graph, name)
    return model.carry(prepared).train(root.training)


def set_range_tracking(model: PreparedModel, tracking: bool) -> None:
    """Let training move the activation ranges, or freeze them; call it after calibration."""
    for grid in model.grids.values():
        grid.track(tracking)

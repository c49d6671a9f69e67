"""The evaluation of a PyTorch model: its outputs on data, measured against the labels or a teacher's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qat.adapters.torch import inputs_of
from qat.adapters.torch.inference import device_of, fitting, on_device
from qat.display.progress import length, tracked
from qat.errors import ConfigError, DataError
from qat.frameworks import in_order, input_count
from qat.program.caller_names import paths_of
from qat.system.nests import leaves, mapped
from qat.trainers.data_checks import of_batch, split_batch
from qat.trainers.metric import Metric
from qat.trainers.metrics import measure
from qat.trainers.named_outputs import named
from qat.trainers.options import TrainingOptions
from qat.trainers.preparation import evaluated
from qat.trainers.sample_weights import unweighted
from qat.typing import Batches

from .distributed import Processes

#: The inputs of a batch, nested as the user gave them.
Tensors: TypeAlias = Any


def evaluate(model: nn.Module, data: Batches, options: TrainingOptions) -> dict[str, float]:
    """Return the options' metrics of a model on data."""
    return evaluated(Evaluator(model, options), data, options)


class Evaluator:
    """A model, and the options by which its batches are read and measured."""

    channels_second = True

    def __init__(self, model: nn.Module, options: TrainingOptions) -> None:
        self.model, self.options = model, options
        device = device_of(model)
        self.processes = Processes(device)
        teacher = options.teacher
        if teacher is not None and not isinstance(teacher, nn.Module):
            raise ConfigError(f"teacher must be a torch.nn.Module, as the model is, not a {type(teacher).__name__}")
        self.teacher = None if teacher is None else teacher.to(device).eval()

    def pairs(self, data: Batches) -> Iterator[tuple[Tensors, Any]]:
        """Yield batches as (inputs, labels), tensors on the model's device."""
        return _pairs(data, self.processes.device, self.options.labelled, self.model)

    def evaluate(self, data: Batches, metrics: Sequence[Metric] | None = None) -> dict[str, float]:
        """Return the metrics, of all processes together; by default the options'."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                found = measure(metrics or self.options.chosen_metrics, self._evaluated(data))
        finally:
            self.model.train(training)
        return self.processes.mean_of(found)

    def _evaluated(self, data: Batches) -> Iterator[tuple[Any, Any]]:
        for index, (inputs, labels) in enumerate(tracked(self.pairs(data), "evaluation", length(data))):
            with of_batch(f"evaluation batch {index}", self.model, inputs):
                outputs = _outputs(self.model(*arguments(self.model, inputs)))
            yield outputs, self._expected(inputs, labels, f"evaluation batch {index}")

    def _expected(self, inputs: Tensors, labels: Any, where: str) -> Any:
        if self.options.labelled:
            return _arrays(unweighted(labels)[0])
        assert self.teacher is not None
        with torch.no_grad(), of_batch(where, self.teacher, inputs, "the teacher"):
            return _outputs(self.teacher(*arguments(self.teacher, inputs)))

    def labelled(self, data: Batches) -> Iterator[tuple[tuple[np.ndarray, ...], Any]]:
        """Yield batches as arrays: the inputs, and the labels or the teacher's outputs."""
        for index, (inputs, labels) in enumerate(self.pairs(data)):
            arrays = tuple(x.cpu().numpy() for _, x in leaves(in_order(self.model, inputs)))
            yield arrays, self._expected(inputs, labels, f"evaluation batch {index}")


def arguments(model: nn.Module, inputs: Any) -> tuple[Any, ...]:
    """Return the inputs of a batch as a model's ``forward`` takes them, in its order; each model has its own."""
    ordered = in_order(model, inputs)
    return fitting(model, tuple(ordered) if isinstance(ordered, (tuple, list)) else (ordered,))


def _input(value: Any) -> Any:
    (tensor,) = inputs_of(((value,),))
    return tensor


def _arrays(labels: Any) -> Any:
    """Return labels as arrays, nested as they are."""
    return mapped(_array, labels)


def _outputs(outputs: Any) -> Any:
    """Return a model's outputs as a metric takes them."""
    leaves = [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
    paths = list(paths_of(outputs))
    return named(paths if len(paths) == len(leaves) else [()] * len(leaves), [_array(t) for t in leaves])


def _array(tensor: Tensor) -> np.ndarray:
    host = (tensor.float() if tensor.is_floating_point() else tensor).cpu()
    array: np.ndarray = host.numpy()
    return array


def _tensors(labels: Any, device: torch.device) -> Any:
    """Return the labels of a batch as tensors on a device, nested as they are."""
    return mapped(lambda x: torch.as_tensor(x, device=device), labels)


def _pairs(data: Batches, device: torch.device, labelled: bool, model: nn.Module) -> Iterator[tuple[Tensors, Any]]:
    for index, batch in enumerate(data):
        given, answers = split_batch(batch, index, labelled, input_count(model))
        inputs = mapped(_input, given)
        flat = [x for _, x in leaves(inputs) if isinstance(x, Tensor)]
        for x in flat:  # before they go to an accelerator; on one a look at their values would wait for it
            if x.device.type == "cpu" and x.is_floating_point() and not bool(torch.isfinite(x).all()):
                raise DataError(f"batch {index} of the data holds NaN or infinite values: clean it before training")
        inputs = on_device(inputs, device)
        try:
            # Without labels the loop needs the number of samples alone.
            labels = _tensors(answers, device) if labelled else torch.empty(len(flat[0]), device=device)
        except (TypeError, ValueError) as error:
            raise DataError(f"the labels of batch {index} are no numbers: {error}") from error
        yield inputs, labels

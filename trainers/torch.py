"""The PyTorch fine-tuning loop."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.adapters import is_prepared
from qat.adapters.torch import inputs_of, set_observing
from qat.adapters.torch.run import device_of, fitting
from qat.errors import ConfigError, DataError
from qat.files import write_atomically
from qat.trainers.loop import run
from qat.trainers.options import History, TrainingOptions, check_labels


def finetune(model: nn.Module, train_data: Iterable[Any], eval_data: Iterable[Any] | None, options: TrainingOptions) -> History:
    """Fine-tune a model in place and leave the best epoch's weights in it; see :func:`qat.finetune`."""
    torch.manual_seed(options.seed)
    return run(_Learner(model, options), train_data, eval_data, options)


class _Learner:
    """A :class:`qat.trainers.loop.Learner` of PyTorch."""

    def __init__(self, model: nn.Module, options: TrainingOptions) -> None:
        self.model, self.options = model, options
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError("the model has no parameter that requires a gradient: unfreeze some before fine-tuning")
        self.optimizer = _optimizer(self.parameters, options)
        self.loss_of = options.loss or F.cross_entropy

    def pairs(self, data: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        return _pairs(data, device_of(self.model))

    def step(self, inputs: Any, labels: Any, number: int, rate: float, observing: bool) -> float:
        self.model.train()
        self._observe(observing)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self.model(*fitting(self.model, inputs))
        if self.options.loss is None:
            if not isinstance(outputs, Tensor):
                raise ConfigError("the model has several outputs: give loss=, a function of (outputs, labels)")
            if number == 0 and _are_probabilities(outputs):
                self.loss_of = _negative_log_likelihood
            if labels.device.type == "cpu":  # elsewhere the look at their values would wait for the device
                check_labels(labels, len(inputs[0]), outputs.shape[-1], f"step {number}")
            labels = labels.long()
        loss = self.loss_of(outputs, labels)
        loss.backward()
        if self.options.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip)
        self.optimizer.step()
        return float(loss.detach())

    def _observe(self, observing: bool) -> None:
        if is_prepared(self.model):
            set_observing(self.model, observing)  # type: ignore[arg-type]

    def evaluate(self, data: Iterable[Any]) -> float:
        return evaluate(self.model, data)

    def weights(self) -> dict[str, Tensor]:
        return copy.deepcopy(self.model.state_dict())

    def finish(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(weights)
        self._observe(False)
        self.model.eval()

    def save(self, name: str) -> None:
        _save(self.model, self.options, name)


def evaluate(model: nn.Module, data: Iterable[Any]) -> float:
    """Return the top-1 accuracy in percent, in eval mode."""
    right = seen = 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for inputs, labels in _pairs(data, device_of(model)):
                right += int((model(*fitting(model, inputs)).argmax(-1) == labels).sum())
                seen += len(labels)
    finally:
        model.train(training)
    if seen == 0:
        raise DataError("the evaluation data yields no batches: a generator that was used up yields none, pass a list")
    return 100.0 * right / seen


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a ``.safetensors`` file into a model.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise DataError(f"no such checkpoint: {path}") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole .safetensors file ({error}): use the checkpoint before it") from error
    except RuntimeError as error:
        raise DataError(f"{path} holds the weights of another model: {str(error).splitlines()[-1].strip()}") from error
    return model


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether the model ends in a softmax: every row is positive and sums to one."""
    rows = outputs.detach().float()
    return bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < 0.02).all())


def _negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(probabilities.clamp_min(1e-7).log(), labels)


def _save(model: nn.Module, options: TrainingOptions, name: str) -> None:
    if options.checkpoint_dir is None:
        return
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    write_atomically(Path(options.checkpoint_dir) / f"{name}.safetensors", save(tensors), overwrite=True)


def _optimizer(parameters: list[nn.Parameter], options: TrainingOptions) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, options.peak, momentum=0.9, nesterov=True, weight_decay=options.weight_decay)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, options.peak, weight_decay=options.weight_decay)


def _pairs(data: Iterable[Any], device: torch.device) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    for index, batch in enumerate(data):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {index} is not an (inputs, labels) pair")
        inputs = inputs_of((batch[0],), device)
        try:
            labels = torch.as_tensor(batch[1], device=device)
        except (TypeError, ValueError) as error:
            raise DataError(f"the labels of batch {index} are no numbers: {error}") from error
        for x in inputs:
            if x.is_floating_point() and not bool(torch.isfinite(x).all()):
                raise DataError(f"batch {index} of the data holds NaN or infinite values: clean it before training")
        yield inputs, labels

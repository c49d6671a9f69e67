"""The PyTorch learner: a step, an evaluation, and the state that a run continues from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qat.adapters.torch import set_range_tracking
from qat.adapters.torch.autograd.kernel_choice import Choices, computing_with
from qat.adapters.torch.dampening import distance
from qat.adapters.torch.freezing import Freezing
from qat.adapters.torch.inference import device_of
from qat.adapters.torch.prepared_model import PreparedModel
from qat.calibration.clear_borders import clear_borders
from qat.errors import ConfigError, DataError
from qat.frameworks import is_prepared
from qat.trainers import randomness
from qat.trainers.data_checks import check_labels, of_batch
from qat.trainers.detection_labels import check_boxes, limits_of
from qat.trainers.history import History
from qat.trainers.learner import LogWriter, Loss, Step, part
from qat.trainers.loop import run
from qat.trainers.options import TrainingOptions
from qat.trainers.output_losses import OutputLosses
from qat.trainers.sample_weights import unweighted
from qat.typing import Batches

from . import losses, optimizers
from .distributed import accumulating
from .evaluation import Evaluator, Tensors, arguments
from .weights import arrays_of, put, save_weights


def finetune(model: nn.Module, train_data: Batches, eval_data: Batches | None, options: TrainingOptions) -> History:
    """Fine-tune a model in place and leave the best epoch's weights in it; see :func:`qat.finetune`."""
    torch.manual_seed(options.seed)
    return run(_Learner(model, options), train_data, eval_data, options)


class _Learner(Evaluator):
    """A :class:`qat.trainers.learner.Learner` of PyTorch."""

    def __init__(self, model: nn.Module, options: TrainingOptions) -> None:
        super().__init__(model, options)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError("the model has no parameter that requires a gradient: unfreeze some before fine-tuning")
        # On an accelerator the optimizer itself looks whether the loss was a number, and nothing waits for the answer.
        self.late = optimizers.skips(options.chosen_optimizer, device_of(model))
        self.optimizer = optimizers.optimizer(model, options, fused=self.late)
        self.lost: Tensor | None = None
        self.label_loss, self.teacher_loss = losses.label_loss(options), losses.teacher_loss(options)
        self.shared = self.processes.averaging(model)
        self.kernels = Choices(options.gradients)
        self.writes = self.processes.first
        self.probabilities = False
        self.freezing: Freezing | None = None
        if options.freezing is not None and isinstance(model, PreparedModel):
            self.freezing = Freezing(model, options.freezing)

    def learn_from_teacher(self, found: OutputLosses) -> None:
        self.teacher_loss = losses.output_losses(found, self.options.temperature)

    def agreed(self, flag: bool) -> bool:
        return self.processes.any(flag)

    def mean_of(self, values: dict[str, float]) -> dict[str, float]:
        return self.processes.mean_of(values)

    # --- a step ---

    def step(self, inputs: Tensors, labels: Tensor, step: Step) -> Loss:
        self.model.train()
        self._track(step.tracking)
        with accumulating(self.shared, step.update), self._precision(), computing_with(self.kernels):
            with of_batch(f"step {step.number}", self.model, inputs):
                outputs = self.shared(*arguments(self.model, inputs))
            with of_batch(f"step {step.number}", self.model, inputs, "the loss"):
                loss = self._loss(inputs, outputs, labels, step.number)
            value = self.processes.mean(loss.detach())
            if self.late:
                lost = value.isfinite().logical_not().float()
                self.lost = lost if self.lost is None else torch.maximum(self.lost, lost)
            elif not np.isfinite(float(value)):
                return value.item
            if step.dampening and isinstance(self.model, PreparedModel):
                loss = loss + step.dampening * distance(self.model)
            (loss * step.share).backward()
        self.processes.agree_on(self.kernels)
        if step.update:
            self._update(step.rate)
        return value.item

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.options.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(device_of(self.model).type, torch.bfloat16)

    def _update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.options.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip)
        if self.late:
            optimizers.step_unless(self.optimizer, self.lost)
            self.lost = None
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.freezing is not None:
            self.freezing.update()

    def _loss(self, inputs: Tensors, outputs: Any, labels: Tensor, number: int) -> Tensor:
        options, axis = self.options, 1
        labels, weights = unweighted(labels)
        if options.classifies:
            outputs = losses.class_scores(outputs)
            axis = losses.class_axis(outputs, labels if options.labelled else None)
            shape, outputs = outputs.shape, losses.rows_of(outputs, axis)
            if number == 0:
                self.probabilities = losses.are_probabilities(outputs)
            if self.probabilities:
                outputs = losses.logarithms(outputs)
            if options.labelled:
                if labels.device.type == "cpu":  # elsewhere the look at their values would wait for the device
                    check_labels(labels, (*shape[:axis], *shape[axis + 1 :]), outputs.shape[-1], f"step {number}")
                labels = losses.class_labels(labels, outputs.shape[-1])
        if options.detects and labels.device.type == "cpu":
            check_boxes(labels, *limits_of(outputs), f"step {number}")
        return options.combined_loss(
            lambda: losses.of_batch(self.label_loss, outputs, labels, weights), self._distance(inputs, outputs, axis)
        )

    def _distance(self, inputs: Tensors, outputs: Any, axis: int) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            taught = self.teacher(*arguments(self.teacher, inputs))
        if self.options.classifies:
            taught = losses.rows_of(losses.class_scores(taught), axis)
        return self.teacher_loss(outputs, losses.logarithms(taught) if self.probabilities else taught)

    def _track(self, tracking: bool) -> None:
        if isinstance(self.model, PreparedModel):
            set_range_tracking(self.model, tracking)

    def freeze(self) -> None:
        self._track(False)

    def zero_output_loss(self, inputs: Tensors, labels: Tensor) -> float:
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(*arguments(self.model, inputs))
            zeros = pytree.tree_map(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, outputs)
            return float(self.processes.mean(self._loss(inputs, zeros, labels, 1)))

    def first_not_finite(self, inputs: Tensors) -> str | None:
        found: list[str] = []

        def look(name: str) -> Callable[[nn.Module, object, object], None]:
            def hook(module: nn.Module, args: object, output: object) -> None:
                tensors = (t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point())
                if not found and not all(bool(torch.isfinite(t).all()) for t in tensors):
                    found.append(name)

            return hook

        leaves = ((name, m) for name, m in self.model.named_modules() if not any(m.children()) or is_prepared(self.model))
        hooks = [m.register_forward_hook(look(_scope_of(name, self.model))) for name, m in leaves if name]
        try:
            with torch.no_grad():
                self.model(*arguments(self.model, inputs))
        finally:
            for handle in hooks:
                handle.remove()
        return found[0] if found else None

    def log_writer(self, folder: str) -> LogWriter:
        from torch.utils.tensorboard import SummaryWriter

        return _Writer(SummaryWriter(folder))

    # --- state ---

    def weights(self) -> dict[str, np.ndarray]:
        return arrays_of(self.model)

    def finish(self, weights: dict[str, np.ndarray]) -> None:
        put(self.model, weights)
        self._track(False)
        if isinstance(self.model, PreparedModel):
            clear_borders(self.model)
        self.model.eval()

    def save(self, name: str) -> Path | None:
        if self.options.checkpoint_dir is None or not self.writes:
            return None
        return save_weights(self.model, Path(self.options.checkpoint_dir) / f"{name}.safetensors")

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"model/{name}": array for name, array in arrays_of(self.model).items()}
        arrays |= {f"optimizer/{name}": array for name, array in optimizers.state(self.optimizer).items()}
        if self.freezing is not None:
            arrays |= {f"freezing/{name}": array for name, array in arrays_of(self.freezing).items()}
        return arrays, {"probabilities": self.probabilities, "kernels": self.kernels.forms}

    def restore(self, arrays: dict[str, np.ndarray], values: Mapping[str, Any]) -> None:
        model = part(arrays, "model/")
        wrong = [n for n, t in self.model.state_dict().items() if n not in model or tuple(t.shape) != model[n].shape]
        if wrong:
            raise DataError(f"the checkpoint is of another model: it has no '{wrong[0]}' of this model's shape")
        put(self.model, model)
        optimizers.restore(self.optimizer, part(arrays, "optimizer/"))
        if self.freezing is not None:
            put(self.freezing, part(arrays, "freezing/"))
        self.probabilities = bool(values["probabilities"])
        self.kernels.take(values["kernels"])

    def random_state(self, data: Batches) -> dict[str, np.ndarray]:
        states = randomness.state() | {"torch": torch.get_rng_state().numpy().copy()}
        if torch.cuda.is_available():
            states |= {f"cuda{i}": s.numpy().copy() for i, s in enumerate(torch.cuda.get_rng_state_all())}
        return states | {name: g.get_state().numpy().copy() for name, g in _generators(data).items()}

    def restore_random(self, data: Batches, arrays: dict[str, np.ndarray]) -> None:
        randomness.restore(arrays)
        torch.set_rng_state(torch.from_numpy(arrays["torch"].copy()))
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in arrays:
                torch.cuda.set_rng_state(torch.from_numpy(arrays[f"cuda{index}"].copy()), index)
        for name, generator in _generators(data).items():
            generator.set_state(torch.from_numpy(arrays[name].copy()))


class _Writer:
    """TensorBoard's logs."""

    def __init__(self, writer: Any) -> None:
        self.writer, self.close = writer, writer.close

    def scalar(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)


def _scope_of(module: str, model: nn.Module) -> str:
    """Return a layer's name as the user knows it: that of the operator which a prepared model's node carries out."""
    name = module.rpartition(".")[2]
    ops = {p.op.name: p.op for p in model.plan.ops} if is_prepared(model) else {}
    return ops[name].layer if name in ops else module


def _generators(data: object) -> dict[str, torch.Generator]:
    """Return the generators that a DataLoader and its sampler draw from, where they have their own."""
    owners = {"loader": data, "sampler": getattr(data, "sampler", None)}
    found = {name: getattr(owner, "generator", None) for name, owner in owners.items()}
    return {name: g for name, g in found.items() if isinstance(g, torch.Generator)}

"""Optimizers by name, and their state as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qat.adapters.torch.prepared_model import SCOPE
from qat.trainers.options import TrainingOptions

from .weights import array_of, tensor_like

_MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, rate, **kw: torch.optim.SGD(p, rate, momentum=0.9, nesterov=True, **kw),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": lambda p, rate, **kw: torch.optim.RMSprop(p, rate, alpha=0.9, momentum=0.9, **kw),
    "adagrad": torch.optim.Adagrad,
}


def skips(name: str, device: torch.device) -> bool:
    """Whether the device itself can skip an optimizer's step: on CUDA, where the step is one fused kernel."""
    return device.type == "cuda" and name in ("sgd", "adam", "adamw")


def optimizer(model: nn.Module, options: TrainingOptions, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimizer that the options name, of the model's trainable parameters; learned scales do not decay."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    scales = [p for name, p in trained.items() if name.startswith(f"{SCOPE}.")]
    groups: list[dict[str, Any]] = [{"params": [p for name, p in trained.items() if not name.startswith(f"{SCOPE}.")]}]
    if scales:
        groups.append({"params": scales, "weight_decay": 0.0})
    how = {"fused": True} if fused else {}
    return _MAKERS[options.chosen_optimizer](groups, options.peak, weight_decay=options.weight_decay, **how)


def step_unless(made: torch.optim.Optimizer, lost: Tensor | None) -> None:
    """Take a step, unless ``lost``, a float scalar on the device, is 1: the kernel skips its work, so that nobody waits.

    Source: ``found_inf`` is how ``torch.amp.GradScaler`` tells a fused optimizer.
    """
    made.found_inf = lost  # type: ignore[attr-defined]
    made.step()


def state(made: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Return the state by ``parameter's number/name``; the groups' options are those that :func:`optimizer` gives."""
    states = made.state_dict()["state"]
    tensors = ((f"{i}/{name}", torch.as_tensor(v)) for i, values in states.items() for name, v in values.items() if v is not None)
    return {name: array_of(tensor) for name, tensor in tensors}


def restore(made: torch.optim.Optimizer, arrays: Mapping[str, np.ndarray]) -> None:
    """Put back the state that :func:`state` returned."""
    parameters = [p for group in made.param_groups for p in group["params"]]
    states: dict[int, dict[str, Any]] = {}
    for key, array in arrays.items():
        index, name = key.split("/")
        states.setdefault(int(index), {})[name] = tensor_like(array, parameters[int(index)])
    made.load_state_dict({"state": states, "param_groups": made.state_dict()["param_groups"]})

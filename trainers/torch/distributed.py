"""Several processes that train one model together, where ``torch.distributed`` is initialised (torchrun, accelerate)."""

from __future__ import annotations

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qat.adapters.torch.autograd.kernel_choice import Choices, merged
from qat.frameworks import is_prepared


def accumulating(model: nn.Module, update: bool) -> contextlib.AbstractContextManager[object]:
    """Return the context of a step of a model that averages gradients: it does so in the last step before an update alone."""
    if update or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


class Processes:
    """The processes that average their gradients; alone, one process. ``device`` is the model's.

    Attributes:
        size: how many there are.
        first: whether this is the one that writes files.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.first = self.size == 1 or dist.get_rank() == 0
        self._agreed = 0

    def averaging(self, model: nn.Module) -> nn.Module:
        """Return the model with its gradients averaged over the processes; alone, the model as it is."""
        # A prepared model's buffers are its ranges, which all processes move alike: none has to be broadcast.
        return model if self.size == 1 else DistributedDataParallel(model, broadcast_buffers=not is_prepared(model))

    def mean(self, value: Tensor) -> Tensor:
        """Return a scalar's mean over the processes: all see the same loss, so that all stop where it is no number."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def mean_of(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return metrics' means over the processes, which then choose the same best epoch."""
        if self.size == 1:
            return metrics
        return {name: float(self.mean(torch.tensor(value, device=self.device))) for name, value in metrics.items()}

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def agree_on(self, kernels: Choices) -> None:
        """Let all processes compute with the same kernels from the next step on, so that one checkpoint continues all of them."""
        if self.size == 1 or self.device.type != "cpu" or not self.any(len(kernels.forms) != self._agreed):
            return
        each: list[dict[str, str]] = [{} for _ in range(self.size)]
        dist.all_gather_object(each, kernels.forms)
        kernels.take(merged(each))
        self._agreed = len(kernels.forms)

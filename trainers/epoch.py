"""The record of one epoch of a fine-tuning run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch.

    Attributes:
        number: from 1.
        loss: the mean training loss over the samples.
        metrics: on the evaluation data, by name, the one that chooses the best epoch first; empty without evaluation data.
        artifact: the same metrics of the exported artifact in its runtime, in the epochs that measured it.
    """

    number: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifact: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """The metric that chooses the best epoch (by default top-1 accuracy in percent); None without evaluation data."""
        return next(iter(self.metrics.values()), None)

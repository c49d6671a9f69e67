"""The record of a fine-tuning run: its epochs and its options."""

from __future__ import annotations

from dataclasses import dataclass

from .epoch import Epoch
from .options import TrainingOptions


@dataclass(frozen=True)
class History:
    """The record of a finished run.

    Attributes:
        epochs: in order.
        steps: batches trained on, those before a resume among them.
        seconds: the time that this process took.
        best_epoch: the number of the epoch whose weights the model holds.
        options: by which the run was made.
    """

    epochs: tuple[Epoch, ...]
    steps: int
    seconds: float
    best_epoch: int
    options: TrainingOptions

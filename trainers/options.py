"""What a fine-tuning run is told and what it tells, the same in both frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from qat.errors import ConfigError, DataError, nearest

#: Optimizers' usual learning rates; QAT takes a hundredth (Krishnamoorthi 2018; Wu et al. 2020, section 6).
USUAL_LEARNING_RATE = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}

#: ``(option, least value, types, whether None is allowed)``.
_NUMBERS: tuple[tuple[str, float, tuple[type, ...], bool], ...] = (
    ("epochs", 1, (int,), False),
    ("max_steps", 1, (int,), True),
    ("seed", 0, (int,), False),
    ("learning_rate", 1e-12, (int, float), True),
    ("gradient_clip", 1e-12, (int, float), True),
    ("weight_decay", 0, (int, float), False),
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of :func:`qat.finetune`.

    Attributes:
        epochs: passes over the data.
        max_steps: an upper limit on the steps; None for none.
        learning_rate: the peak; None takes a hundredth of the optimizer's usual one (SGD: 0.001).
        optimizer: ``sgd`` (momentum 0.9, Nesterov), ``adam`` or ``adamw``.
        schedule: ``cosine`` (down to a hundredth of the peak) or ``constant``.
        weight_decay: of every trainable parameter; the activation ranges are none.
        gradient_clip: limit on the gradients' global norm; None for none.
        observe_fraction: the share of the steps in which activation ranges follow the data before they are frozen.
        seed: of every random generator used.
        checkpoint_dir: where ``best.safetensors`` and ``last.safetensors`` are written; None for nowhere.
        loss: a callable ``(outputs, labels) -> scalar``; None is cross-entropy on logits.
        progress: whether to show a progress bar (only on a terminal).
    """

    epochs: int = 1
    max_steps: int | None = None
    learning_rate: float | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    observe_fraction: float = 0.1
    seed: int = 0
    checkpoint_dir: str | Path | None = None
    loss: Any = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in USUAL_LEARNING_RATE:
            raise ConfigError(f"unknown optimizer '{self.optimizer}'; valid: {', '.join(USUAL_LEARNING_RATE)}")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"unknown schedule '{self.schedule}'; valid: cosine, constant")
        for name, low, kinds, optional in _NUMBERS:
            value: Any = getattr(self, name)
            if value is None and optional:
                continue
            right_type = isinstance(value, kinds) and not isinstance(value, bool)
            if not right_type or value < low:
                kind = "a whole number" if kinds == (int,) else "a number"
                raise ConfigError(f"{name} must be {kind} of at least {low:g}, not {value!r}")
        if not 0.0 <= self.observe_fraction <= 1.0:
            raise ConfigError(f"observe_fraction is a share between 0 and 1, not {self.observe_fraction}")

    @classmethod
    def of(cls, **options: Any) -> TrainingOptions:
        """Return options from keywords. Raises ConfigError naming the nearest valid one for an unknown keyword."""
        valid = [f.name for f in fields(cls)]
        for name in options:
            if name not in valid:
                raise ConfigError(f"unknown training option '{name}'{nearest(name, valid)}; valid: {', '.join(valid)}")
        return cls(**options)

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return self.learning_rate if self.learning_rate is not None else USUAL_LEARNING_RATE[self.optimizer] / 100

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of a step: half a cosine from the peak to a hundredth of it (Loshchilov & Hutter 2017)."""
        if self.schedule == "constant":
            return self.peak
        low = self.peak / 100
        return low + (self.peak - low) * 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean training loss, and accuracy on the evaluation data (None without any)."""

    number: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class History:
    """A finished run: its epochs, steps, seconds, and the epoch whose weights were kept."""

    epochs: tuple[Epoch, ...]
    steps: int
    seconds: float
    best_epoch: int
    options: TrainingOptions = field(default_factory=TrainingOptions)


def count_batches(data: Iterable[Any]) -> int:
    """Return the number of training batches, which the schedule needs.

    Raises:
        DataError: the data has no length, or none but zero.
    """
    try:
        count = len(data)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(
            "the training data has no length: pass a DataLoader, a tf.data pipeline of known cardinality or a list of batches, "
            "since the schedule needs the number of steps"
        ) from error
    if count == 0:
        raise DataError("the training data is empty: no batches")
    return count


def check_labels(labels: Any, samples: int, classes: int, where: str) -> None:
    """Raise DataError unless labels (an array or tensor on the CPU) are class numbers below ``classes``, one a sample."""
    shape = tuple(labels.shape)
    if shape != (samples,):
        raise DataError(f"{where}: labels have shape {shape}, expected one class number for each of {samples} inputs")
    if "int" not in str(labels.dtype):
        raise DataError(f"{where}: labels are {labels.dtype}, expected class numbers (integers); give your own loss for others")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        found = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise DataError(f"{where}: label {found} is out of range: the model has {classes} outputs")

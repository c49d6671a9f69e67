"""What is asked of a quantized model's outputs: an error of at most so much, and so many of float's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qat.report.statistics import error_percent
from qat.trainers.output_losses import OutputLosses

from .distance import agreement_percent, same_answers


@dataclass(frozen=True)
class Bounds:
    """Bounds of the outputs' distance from float.

    Attributes:
        max_error: the most that they may be off, in percent of their spread; None: any.
        same_answers: the least share of answers that are float's, in percent, where the outputs are classes; None: any.
    """

    max_error: float | None
    same_answers: float | None

    def __bool__(self) -> bool:
        return self.max_error is not None or self.same_answers is not None

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that set a bound."""
        return tuple(name for name, value in vars(self).items() if value is not None)

    def off(self, got: Sequence[np.ndarray], real: Sequence[np.ndarray], losses: OutputLosses) -> float:
        """Return how far outputs are from float's: at most 1 where every bound holds, 2 where one is missed by its double.

        Answers are counted. The half between what may change and what may not keeps the measure finite where none may.
        """
        parts = [0.0]
        if self.max_error is not None:
            parts.append(error_percent(got, real) / self.max_error)
        same = same_answers(got, real, losses) if self.same_answers is not None else None
        if same is not None and self.same_answers is not None:
            free = np.floor(len(same) * (1 - self.same_answers / 100) + 1e-9)
            parts.append(int((~same).sum()) / (float(free) + 0.5))
        return max(parts)

    def asked(self) -> str:
        """Return the bounds in words."""
        return self._said(self.max_error, self.same_answers)

    def found(self, got: Sequence[np.ndarray], real: Sequence[np.ndarray], losses: OutputLosses) -> str:
        """Return what outputs have of what is bounded, in words."""
        error = None if self.max_error is None else error_percent(got, real)
        return self._said(error, None if self.same_answers is None else agreement_percent(got, real, losses))

    @staticmethod
    def _said(error: float | None, same: float | None) -> str:
        parts = [] if error is None else [f"an error of {error:.3g} %"]
        return " and ".join([*parts, *([] if same is None else [f"{same:.5g} % of float's answers"])])

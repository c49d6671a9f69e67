"""A weight that is computed from parameters, which train through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
from tensorflow import Tensor

from qat.adapters.keras.capture.weight_function import WeightFunction


@dataclass(frozen=True)
class ComputedWeight:
    """The node of a computed weight.

    Attributes:
        function: computes it from parameters, as the user's model does.
        factor: multiplies it, as a folded BatchNorm asks for; broadcasts.
        correction: is added to it: how far a method of calibration, such as AdaRound, moved it.
    """

    function: WeightFunction
    factor: keras.Variable
    correction: keras.Variable

    def __call__(self, parameters: Mapping[str, Any]) -> Tensor:
        """Return the weight, from parameters by name."""
        return self.function(parameters) * self.factor + self.correction

    def set(self, value: Tensor, parameters: Mapping[str, Any]) -> None:
        """Correct the weight so that it is a value; its parameters stay."""
        self.correction.assign_add(value - self(parameters))

"""Which roundings of a plan a pass in float simulates: of an operator's weight, of its output, or of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Rounding:
    """What of one operator is rounded to the calibrated grids; everything else of it is computed in float.

    Attributes:
        weight: its weight, to the integers, or the float16, that the artifact holds.
        activation: its output, on its grid; of an operator in dynamic mode its input, on the grid of the moment. The output of a
            float operator, and an input of the model, are rounded where integer kernels read them.
    """

    weight: bool = False
    activation: bool = False


#: Nothing is rounded.
EXACT = Rounding()

#: What is rounded in one pass, by the name of the operator, or of the input of the model. What is not named is float.
Variant: TypeAlias = Mapping[str, Rounding]

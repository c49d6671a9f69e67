"""The groups of channels over which a GroupNorm sums, for the writers of both formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from qat.arithmetic.grid import EXACT_IN_FLOAT
from qat.arithmetic.layer_norm import summed_in_float


@dataclass(frozen=True)
class ChannelGroups:
    """Groups of the channels of an image, whose height and width are fixed.

    Attributes:
        sizes: of the image's axes but the batch.
        axis: of the channels, where the batch is axis 0.
        groups: how many there are.
    """

    sizes: tuple[int, ...]
    axis: int
    groups: int

    @classmethod
    def of(cls, shape: Sequence[int | None], attrs: Mapping[str, Any]) -> ChannelGroups:
        """Return the groups of an instruction that reads an image of a shape."""
        return cls(tuple(size or 1 for size in shape[1:]), attrs["axis"], attrs["groups"])

    @property
    def places(self) -> list[int]:
        """The axes of the places of an image."""
        return [a for a in range(1, len(self.sizes) + 1) if a != self.axis]

    @property
    def channels(self) -> int:
        """The channels of one group."""
        return self.sizes[self.axis - 1] // self.groups

    @property
    def axes(self) -> list[int] | None:
        """The axes that a group takes whole; None where it takes a part of the channels alone."""
        if self.groups > 1 and self.channels > 1:
            return None
        return [a for a in range(1, len(self.sizes) + 1) if self.groups == 1 or a != self.axis]

    @property
    def terms(self) -> int:
        """The integers of one group."""
        return prod(self.sizes) // self.groups

    def passes_float(self, greatest: int) -> bool:
        """Return whether the sum of a group's integers, of a magnitude, may pass what float32 holds exactly."""
        return self.terms * greatest >= EXACT_IN_FLOAT

    def summed_in_float(self, greatest: int) -> tuple[list[int], list[int]]:
        """Return the axes of places over which float32 sums integers of a magnitude exactly, and those that are left."""
        count = summed_in_float([self.sizes[a - 1] for a in self.places], greatest)
        border = len(self.places) - count
        return self.places[border:], self.places[:border]

    @property
    def spread(self) -> list[int]:
        """The sizes, but the batch, of a number of each group as the image reads it: one for each of the channels, or for all."""
        made = self.groups if self.groups == 1 else self.groups * self.channels
        return [made if a == self.axis else 1 for a in range(1, len(self.sizes) + 1)]

    @property
    def repeats(self) -> bool:
        """Whether the number of a group is repeated for its channels."""
        return self.groups > 1 and self.channels > 1

    def along(self, parameter: np.ndarray) -> np.ndarray:
        """Return a parameter of the channels as the image reads it."""
        return parameter.reshape([-1, *[1] * (len(self.sizes) - self.axis)])

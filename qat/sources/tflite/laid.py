"""The order of a tensor's axes: what the file has channels last may lie channels first, until an operator needs one of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qat.sources.module_writer import Value


@dataclass(frozen=True)
class Laid:
    """A tensor of the file, as it lies in the module.

    Attributes:
        value: that holds it.
        order: the axis of the file's tensor that each axis of ``value`` is.
    """

    value: Value
    order: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.order)

    def axis(self, of_file: int) -> int:
        """Return where an axis of the file's tensor lies; a negative one counts from the last."""
        return self.order.index(of_file % self.rank)

    def size(self, of_file: int) -> object:
        """Return the size of an axis of the file's tensor; that of a free axis is symbolic."""
        return self.value.shape[self.axis(of_file)]

    def without(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Return the order of the axes that are left when some of the file's are removed."""
        gone = {axis % self.rank for axis in axes}
        return tuple(axis - sum(g < axis for g in gone) for axis in self.order if axis not in gone)


def as_in_file(rank: int) -> tuple[int, ...]:
    """Return the order of axes that lie as the file has them."""
    return tuple(range(rank))


def channels_first(rank: int) -> tuple[int, ...]:
    """Return the order in which PyTorch's convolutions take an image of the file: batch, channels, then the other axes."""
    return (0, rank - 1, *range(1, rank - 1))


def changed(source: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """Return the axes by which ``permute`` turns a tensor of one order into one of another."""
    return tuple(source.index(axis) for axis in target)


def in_file_order(value: Value) -> Laid:
    """Return a value whose axes lie as the file has them."""
    return Laid(value, as_in_file(len(value.shape)))

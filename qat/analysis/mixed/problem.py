"""The problem of mixed precision as numbers: what each choice of each layer costs alone, and what choices cost together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

#: The amounts that are added up over the layers.
Amount = Literal["loss", "bytes", "ms"]
AMOUNTS: tuple[Amount, ...] = ("loss", "bytes", "ms")
#: The choice of each layer, by the layer's name.
Assignment: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Option:
    """One choice for one layer.

    Attributes:
        layer: the layer's name.
        choice: the name of the precision.
        loss: that the model loses with this layer alone in this precision, in the unit of whoever measured it.
        bytes: of the layer's weights in the artifact.
        ms: that the layer's kernels take, in milliseconds.
    """

    layer: str
    choice: str
    loss: float
    bytes: int
    ms: float


@dataclass(frozen=True)
class Some:
    """Some choices of one layer, any of them."""

    layer: str
    choices: frozenset[str]

    def holds(self, assignment: Assignment) -> bool:
        """Whether an assignment takes one of the choices."""
        return assignment.get(self.layer) in self.choices


@dataclass(frozen=True)
class Pair:
    """The milliseconds that two layers take together beyond what each takes alone.

    Positive where a conversion stands between both, negative where one falls away.
    """

    first: Some
    second: Some
    ms: float


@dataclass(frozen=True)
class Totals:
    """The amounts of an assignment, as the additive model predicts them: the units of :class:`Option`."""

    loss: float
    bytes: int
    ms: float


@dataclass(frozen=True)
class Problem:
    """Layers, their options, and what binds the layers to each other.

    Attributes:
        options: at least one for each layer.
        pairs: the terms of two layers.
        excluded: combinations of which no assignment may hold all parts.
    """

    options: tuple[Option, ...]
    pairs: tuple[Pair, ...] = ()
    excluded: tuple[tuple[Some, ...], ...] = ()

    @property
    def layers(self) -> dict[str, tuple[Option, ...]]:
        """The options of each layer, in the order of the layers."""
        found: dict[str, list[Option]] = {}
        for option in self.options:
            found.setdefault(option.layer, []).append(option)
        return {layer: tuple(options) for layer, options in found.items()}

    def totals(self, assignment: Assignment) -> Totals:
        """Return what an assignment costs in all."""
        taken = [option for option in self.options if assignment[option.layer] == option.choice]
        together = sum(pair.ms for pair in self.pairs if pair.first.holds(assignment) and pair.second.holds(assignment))
        return Totals(sum(o.loss for o in taken), sum(o.bytes for o in taken), sum(o.ms for o in taken) + together)

    def allows(self, assignment: Assignment) -> bool:
        """Whether an assignment holds no excluded combination."""
        return not any(all(part.holds(assignment) for part in parts) for parts in self.excluded)

    def excluding(self, combinations: Iterable[tuple[Some, ...]]) -> Problem:
        """Return the problem with more combinations excluded."""
        return replace(self, excluded=(*self.excluded, *combinations))


def exactly(assignment: Assignment) -> tuple[Some, ...]:
    """Return the combination that one assignment alone holds."""
    return tuple(Some(layer, frozenset({choice})) for layer, choice in assignment.items())

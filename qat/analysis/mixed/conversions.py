"""The conversions between layers of different forms: what they cost, as terms of two layers, and where none exists."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.arithmetic.int16 import LIMITS as INT16_LIMITS
from qat.planning.plan import Plan
from qat.program.program import Value

from .choices import FLOAT
from .costs import LayerCost
from .network import Network
from .problem import Assignment, Option, Pair, Problem, Some
from .times import Times


class Conversions:
    """The milliseconds of the conversions in a plan.

    Args:
        network: the layers and their choices.
        times: where milliseconds come from; None: all are 0.
        free: tensors whose conversions cost nothing, since the artifact's own inputs and outputs are integers.
    """

    def __init__(self, network: Network, times: Times | None, free: frozenset[str] = frozenset()) -> None:
        self.network, self._times, self._free = network, times, free
        self._writers = {name: name for name in network.graph.inputs}
        self._writers |= {name: op.layer for op in network.graph.ops for name in op.outputs}

    def ms(self, assignment: Assignment) -> float | None:
        """Return the milliseconds of an assignment, layers without a choice float; None where the planner does not keep it."""
        if all(choice == FLOAT for choice in assignment.values()):
            return 0.0
        plan = self.network.plan_of(assignment)
        if plan is None or self._times is None:
            return None if plan is None else 0.0
        ways = [(tensor, False) for tensor in plan.quantize] + [(tensor, True) for tensor in plan.dequantize]
        return sum(
            self._times.of_conversion(_value(plan, tensor), self._writers[tensor], back)
            for tensor, back in ways
            if tensor not in self._free
        )

    def terms(self) -> tuple[dict[tuple[str, str], float], list[Pair], list[tuple[Some, Some]]]:
        """Return the milliseconds of each layer's form where all others are float, the terms of two layers, and the clashes.

        With ``c`` the milliseconds of the planner's own plan, the term of two layers is ``c(a, b) - c(a) - c(b)``: what the
        conversions of both together cost beyond those of each alone. Two neighbours on the grid save one each way.
        """
        forms = {layer: self.network.forms(layer) for layer in self.network.options}
        alone = {(layer, form): self.ms({layer: c}) or 0.0 for layer, found in forms.items() for form, c in found.items()}
        pairs: list[Pair] = []
        clashes: list[tuple[Some, Some]] = []
        near = dict.fromkeys((a.name, b.name) for junction in self.network.junctions for a, b in junction.pairs())
        for a, b in (names for names in near if forms.keys() >= set(names)):
            for form, first in forms[a].items():
                for other, second in forms[b].items():
                    if self._times is None and form == other:
                        continue
                    both = self.network.some(a, form), self.network.some(b, other)
                    together = self.ms({a: first, b: second})
                    if together is None:
                        clashes.append(both)
                    elif abs(ms := together - alone[a, form] - alone[b, other]) > 1e-9:
                        pairs.append(Pair(*both, ms))
        return alone, pairs, clashes


def _value(plan: Plan, tensor: str) -> Value:
    """Return a tensor on the grid as a program has it; its scale does not matter."""
    spec, bits = plan.graph.tensors[tensor], plan.groups[plan.group_of[tensor]].spec.bits
    limits = INT16_LIMITS if bits == 16 else plan.target.activation
    return Value(tensor, spec.shape, Encoding(np.asarray(f32(0.1)), 0, *limits), example=spec.example)


def problem_of(
    network: Network,
    costs: Mapping[tuple[str, str], LayerCost],
    losses: Mapping[tuple[str, str], float],
    conversions: Conversions,
) -> Problem:
    """Return the problem: every option with its loss and its cost, and what conversions cost between the layers.

    Args:
        network: the layers and their choices.
        costs: of each layer in each choice.
        losses: likewise.
        conversions: between layers.
    """
    alone, pairs, clashes = conversions.terms()

    def option(layer: str, name: str) -> Option:
        cost = costs[layer, name]
        around = alone.get((layer, network.choices[name].form), 0.0)
        return Option(layer, name, losses[layer, name], cost.bytes, cost.ms + around)

    options = tuple(option(layer, name) for layer, names in network.options.items() for name in names)
    return Problem(options, tuple(pairs), tuple(clashes))

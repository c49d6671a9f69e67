"""What is known of a model before anything is chosen: its layers, their choices, what these cost and what they lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from qat.analysis.sensitivity.alternatives import Alternative, measure_alternatives
from qat.captured import captured
from qat.errors import ConfigError
from qat.planning.recipe import Recipe
from qat.planning.targets import Target
from qat.system.silence import without_notices
from qat.trainers.metrics import MetricSpec
from qat.typing import Batches, Inputs, IoDtype, Model, Samples

from .choices import Choice
from .conversions import Conversions, problem_of
from .costs import LayerCost, layer_costs
from .lowering import lowering
from .network import Network
from .problem import Amount, Assignment, Problem, Totals
from .solver import front, solve
from .times import GivenTimes, TimedHere, Times

#: Chooses assignments of a problem.
Choose = Callable[[Problem], list[dict[str, str]]]


class Study:
    """A model under study.

    Attributes:
        model, example: the float model and a batch of its inputs.
        captured: its capture, for a target.
        network: its layers and their choices, for a target.
    """

    def __init__(
        self, model: Model, example: Inputs, base: Recipe, target: Target, choices: Sequence[Choice], times: Times | None,
        io_dtype: IoDtype,
    ) -> None:  # fmt: skip
        self.model, self.example, self._times = model, example, times
        self.captured = captured(model, example, target)
        graph = self.captured.plan(base).graph
        self.network = Network(graph, base, target, choices)
        integer_ends = target.suffix == ".tflite" and io_dtype != "float32"
        self._free = frozenset((*graph.inputs, *graph.outputs)) if integer_ends else frozenset()
        if isinstance(times, GivenTimes):
            times.check(self.network.options, (*graph.inputs, *(op.layer for op in graph.ops)))

    @cached_property
    def costs(self) -> dict[tuple[str, str], LayerCost]:
        """The cost of each layer in each choice."""
        return layer_costs(self.network, lowering(self.captured), self._times)

    @cached_property
    def conversions(self) -> Conversions:
        """The conversions between layers."""
        return Conversions(self.network, self._times, self._free)

    def losses(self, data: Batches, samples: Samples, metrics: Sequence[MetricSpec] | None) -> dict[tuple[str, str], float]:
        """Measure the loss of each layer in each choice, with all others in float."""
        asked = [
            (layer, name, Alternative(scope, self.network.choices[name].rule))
            for layer, names in self.network.options.items()
            for name in names
            for scope in self.network.layers[layer].scopes
        ]
        with without_notices():  # what stays float beside a layer is no matter here
            measured = measure_alternatives(
                self.model, data, [alternative for _, _, alternative in asked], calibration=samples, target=self.network.target,
                example_inputs=self.example, metrics=metrics, capture=self.captured,
            )  # fmt: skip
        found: dict[tuple[str, str], float] = {}
        for (layer, name, _), result in zip(asked, measured, strict=True):
            if result.score is None:
                raise ConfigError(
                    f"layer '{layer}' cannot be measured in '{name}': {result.reason}; leave '{name}' out of the choices"
                )
            found[layer, name] = found.get((layer, name), 0.0) + result.score.loss
        return found

    def problem(self, losses: Mapping[tuple[str, str], float]) -> Problem:
        """Return the problem of these losses and the measured costs."""
        return problem_of(self.network, self.costs, losses, self.conversions)

    def totals(self, problem: Problem, assignment: Assignment) -> Totals:
        """Return what an assignment is predicted to cost, its conversions as its own plan has them."""
        summed = problem.totals(assignment)
        kernels = sum(self.costs[item].ms for item in assignment.items())
        return Totals(summed.loss, summed.bytes, kernels + (self.conversions.ms(assignment) or 0.0))

    def kept(self, problem: Problem, choose: Choose) -> tuple[Problem, list[dict[str, str]]]:
        """Return assignments that the planner keeps, and the problem without those that it refused."""
        while True:
            found = choose(problem)
            refused = [combination for assignment in found for combination in self.network.refused(assignment)]
            if not refused:
                return problem, found
            problem = problem.excluding(dict.fromkeys(refused))


def chosen_front(
    study: Study, problem: Problem, cost: Amount, points: int, limits: Mapping[Amount, float]
) -> list[dict[str, str]]:
    """Return the points of the front, the cheapest first.

    Raises:
        ConfigError: no assignment keeps the limits; the message has the least of each amount.
    """
    _, found = study.kept(problem, lambda p: front(p, cost, points, limits))
    if found:
        return found
    least = [solve(problem, (amount,)) for amount in limits]
    said = [
        f"the least {amount} are {getattr(problem.totals(a), amount):,.6g}, the limit is {limits[amount]:,.6g}"
        for amount, a in zip(limits, least, strict=True)
        if a is not None
    ]
    raise ConfigError(f"no choice of precisions keeps the limits ({'; '.join(said)}): raise them, or allow other choices")


def times_of(target: Target, given: Mapping[tuple[str, str], float] | GivenTimes | None, wanted: bool) -> Times | None:
    """Return where milliseconds come from: a table, or this machine where the target's runtime runs on it; None for nowhere.

    Raises:
        ConfigError: milliseconds are wanted, and there are none.
    """
    if given is not None:
        return given if isinstance(given, GivenTimes) else GivenTimes(given)
    if target.kernels in ("mlas", "xnnpack") and not target.strict_qdq:
        return TimedHere(target.suffix)
    if wanted:
        raise ConfigError(f"target '{target.name}' does not run on this machine: give latencies, a table of layer, choice and ms")
    return None

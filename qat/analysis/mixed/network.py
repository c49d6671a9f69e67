"""A model's layers and their choices, as the planner keeps them: every question is put to the planner, none to a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations

from qat.errors import ConfigError
from qat.graph.graph import Graph
from qat.planning.placement import roles_of
from qat.planning.plan import Plan
from qat.planning.planner import plan
from qat.planning.recipe import Recipe, Rule
from qat.planning.targets import Target

from .choices import FLOAT, Choice
from .layers import Junction, Layer, junctions_of, layers_of
from .problem import Assignment, Some, exactly


class Network:
    """What there is to choose in a model.

    Attributes:
        graph: of the model.
        base: the recipe whose rules come first: they concern what has no weight of its own.
        target: the runtime.
        choices: by name.
        layers: those with a choice, by name.
    """

    def __init__(self, graph: Graph, base: Recipe, target: Target, choices: Sequence[Choice]) -> None:
        self.graph, self.base, self.target = graph, base, target
        self.choices = {choice.name: choice for choice in choices}
        self.layers = {layer.name: layer for layer in layers_of(graph)}

    @cached_property
    def junctions(self) -> tuple[Junction, ...]:
        """The tensors between the layers."""
        return junctions_of(self.graph, self.layers.values())

    @cached_property
    def options(self) -> dict[str, tuple[str, ...]]:
        """The choices of each layer that the planner keeps where every other layer is float.

        A layer that could be float alone has none, and is left out.

        Raises:
            ConfigError: there is no choice for any layer.
        """
        found = {
            layer: tuple(name for name in self.choices if name == FLOAT or self.plan_of({layer: name}) is not None)
            for layer in self.layers
        }
        chosen = {layer: names for layer, names in found.items() if set(names) - {FLOAT}}
        if not chosen:
            raise ConfigError(
                f"target '{self.target.name}' runs no layer of this model in {', '.join(self.choices)}: qat plan says why"
            )
        return chosen

    def forms(self, layer: str) -> dict[str, str]:
        """Return the forms besides float that a layer can have, each with the first choice that has it."""
        found: dict[str, str] = {}
        for name in self.options[layer]:
            found.setdefault(self.choices[name].form, name)
        found.pop(FLOAT, None)
        return found

    def some(self, layer: str, form: str) -> Some:
        """Return the choices of a layer that have a form."""
        return Some(layer, frozenset(name for name in self.options[layer] if self.choices[name].form == form))

    def uniform(self, choice: str) -> dict[str, str]:
        """Return the assignment that gives a choice to every layer that has it, and leaves the others float."""
        return {layer: choice if choice in options else FLOAT for layer, options in self.options.items()}

    def recipe(self, assignment: Assignment, name: str = "mixed", description: str = "") -> Recipe:
        """Return the recipe of an assignment: the base's rules, then one for each scope; layers without a choice are float.

        Operators without weights follow the base. Where every layer around them that runs in integers has 16 bits, so have they.
        """
        rules = [*self.base.rules]
        for layer in self.layers.values():
            rule = self._rule(assignment, layer)
            if not self._has_from_base(layer, rule):
                rules += [rule.model_copy(update={"scope": pattern}) for pattern in layer.patterns]
        return Recipe(name=name, description=description, rules=(*rules, *self._wide(assignment)), replace=self.base.replace)

    def _has_from_base(self, layer: Layer, rule: Rule) -> bool:
        """Whether the base gives a layer's operators a rule already."""
        same = {"scope": rule.scope, "op": rule.op, "role": rule.role}
        roles = roles_of(self.graph)
        found = [self.base.rule_for(op.layer, op.kind, roles.get(op.name)) for op in self.graph.ops if op.layer in layer.scopes]
        return all(known is not None and known.model_copy(update=same) == rule for known in found)

    def _rule(self, assignment: Assignment, layer: Layer) -> Rule:
        name = assignment.get(layer.name, FLOAT)
        return Rule(mode="float") if name == FLOAT else self.choices[name].rule

    def _wide(self, assignment: Assignment) -> Iterator[Rule]:
        """Yield the rules of the operators without weights that run on 16 bits."""
        own = {scope for layer in self.layers.values() for scope in layer.scopes}
        for junction in self.junctions:
            rules = [self._rule(assignment, layer) for layer in junction.layers]
            static = [rule for rule in rules if rule.mode == "static"]
            if static and all(rule.activation.bits == 16 for rule in static):
                for scope in dict.fromkeys(op.layer for op in junction.ops if op.layer not in own):
                    yield static[0].model_copy(update={"scope": Layer(scope, (scope,), ()).patterns[0]})

    def plan_of(self, assignment: Assignment) -> Plan | None:
        """Return the plan of an assignment, layers without a choice float; None where the planner does not keep it as it is."""
        try:
            made = plan(self.graph, self.recipe(assignment), self.target)
        except ConfigError:
            return None
        planned = {p.op.name: p for p in made.ops}
        kept = (
            self.choices[choice].is_kept(planned[op], made)
            for layer, choice in assignment.items()
            if choice != FLOAT
            for op in self.layers[layer].ops
        )
        return made if all(kept) else None

    def refused(self, assignment: Assignment) -> list[tuple[Some, ...]]:
        """Return what is to be excluded since the planner does not keep an assignment; nothing where it does.

        These are pairs of layers at one junction whose forms do not go together, or, where no pair is the reason, the assignment.
        """
        if self.plan_of(assignment) is not None:
            return []
        pairs = {
            (a.name, b.name)
            for junction in self.junctions
            for a, b in combinations(junction.layers, 2)
            if self._clash(assignment, a.name, b.name)
        }
        found = [(self._same_form(assignment, a), self._same_form(assignment, b)) for a, b in sorted(pairs)]
        return [*found] or [exactly(assignment)]

    def _clash(self, assignment: Assignment, a: str, b: str) -> bool:
        forms = [self.choices[assignment[layer]].form for layer in (a, b)]
        if FLOAT in forms or forms[0] == forms[1]:
            return False
        return self.plan_of({layer: assignment[layer] for layer in (a, b)}) is None

    def _same_form(self, assignment: Assignment, layer: str) -> Some:
        return self.some(layer, self.choices[assignment[layer]].form)


def shares(assignment: Assignment) -> str:
    """Return how many layers have each choice, the most frequent first, as text."""
    names = list(assignment.values())
    return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names), key=lambda n: (-names.count(n), n)))

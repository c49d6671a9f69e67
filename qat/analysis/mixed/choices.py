"""The precisions that a layer can have: each is the rule of a recipe, and has the recipe's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qat.errors import ConfigError
from qat.planning.plan import Plan, PlannedOp
from qat.planning.recipe import Recipe, Rule, load_recipe
from qat.planning.recipe_support import able_targets
from qat.planning.targets import Target

#: The choice that leaves a layer as it is.
FLOAT = "float"
#: The recipes that are choices where the user names none, as far as the target has kernels for them.
DEFAULT = (
    "static_wi8_ai8", "static_wi4_ai8", "static_wi8_ai16", "dynamic_wi8_afp32", "dynamic_wi4_afp32", "weightonly_wi8_afp32",
    "weightonly_wi4_afp32", "float16", FLOAT,
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A precision.

    Attributes:
        name: of the recipe whose rule it is, or ``float``.
        rule: that gives a layer this precision; its scope is that of every layer.
    """

    name: str
    rule: Rule

    @property
    def form(self) -> str:
        """What the layer reads and writes: ``float``, or integers of so many bits. Conversions stand between two forms."""
        return f"int{self.rule.activation.bits}" if self.rule.mode == "static" else FLOAT

    def is_kept(self, planned: PlannedOp, plan: Plan) -> bool:
        """Whether a plan runs an operator in this precision, and stores its weight in as few bits."""
        if self.rule.mode in ("float", "float16"):
            return planned.mode == self.rule.mode
        bits = 8 if planned.weight is None else planned.weight.bits
        held = bits == self.rule.weight.bits and (bits > 4 or planned.packed)
        if planned.mode != self.rule.mode or not held:
            return False
        return not planned.integer or plan.groups[plan.group_of[planned.op.output]].spec.bits == self.rule.activation.bits


def choices_for(target: Target, names: Sequence[str | Path | Recipe] | None = None) -> tuple[Choice, ...]:
    """Return the choices by name.

    Args:
        target: of which a choice needs kernels.
        names: recipes of one rule for every layer, by name, path or as objects, and ``float``. None: those of
            :data:`DEFAULT` that the target has kernels for.

    Raises:
        ConfigError: a recipe has several rules, or a rule for some layers only; the target lacks its kernels; or there are fewer
            than two choices.
    """
    wanted = [_choice(name) for name in DEFAULT if name == FLOAT or target.name in able_targets(load_recipe(name))]
    if names is not None:
        wanted = [_choice(name) for name in names]
        for choice in wanted:
            able = able_targets(Recipe(name=choice.name, rules=(choice.rule,)))
            if target.name not in able:
                raise ConfigError(
                    f"target '{target.name}' has no kernels for the choice '{choice.name}'; it has those for "
                    f"{', '.join(c.name for c in choices_for(target))}"
                )
    found = {choice.name: choice for choice in wanted}
    if len(found) < 2:
        raise ConfigError(f"mixed precision chooses among two precisions or more, not {', '.join(found) or 'none'}: name others")
    return tuple(found.values())


def _choice(name: str | Path | Recipe) -> Choice:
    if name == FLOAT:
        return Choice(FLOAT, Rule(mode="float"))
    recipe = load_recipe(name)
    rule = recipe.rules[0]
    if len(recipe.rules) > 1 or rule.scope != ".*" or rule.op != "*" or rule.role is not None:
        raise ConfigError(
            f"recipe '{recipe.name}' is no single precision: a choice is a recipe of one rule without scope, op and role, or "
            "'float'"
        )
    return Choice(recipe.name, rule)

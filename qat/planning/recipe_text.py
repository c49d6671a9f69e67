"""A recipe as the YAML that :func:`qat.planning.recipe.load_recipe` reads."""

from __future__ import annotations

from io import StringIO

from .recipe import Recipe, Rule


def recipe_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML, without the keys that have their defaults.

    Examples:
        >>> print(recipe_yaml(Recipe(name="mine", rules=(Rule(), Rule(scope="^head$", mode="float")))))
        name: mine
        rules:
        - scope: .*
          mode: static
        - scope: ^head$
          mode: float
        <BLANKLINE>
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 1000  # a regular expression is not broken
    text = StringIO()
    document = {"name": recipe.name}
    described = {"description": recipe.description} if recipe.description else {}
    preferred = {"prefer": recipe.prefer} if recipe.prefer != "integers" else {}
    replaced = {"replace": dict(recipe.replace)} if recipe.replace else {}
    yaml.dump(document | described | preferred | replaced | {"rules": [_plain(rule) for rule in recipe.rules]}, text)
    return text.getvalue()


def _plain(rule: Rule) -> dict[str, object]:
    """Return what a rule says, its scope and mode in any case."""
    kept = rule.model_dump(mode="json", exclude_defaults=True)
    return {"scope": rule.scope} | {k: v for k, v in kept.items() if k == "op"} | {"mode": rule.mode} | kept

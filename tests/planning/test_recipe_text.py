"""A recipe is written as the YAML that it is read from."""

import doctest

import pytest

from qat.planning import recipe_text
from qat.planning.recipe import Recipe, Rule, builtin_recipes, load_recipe
from qat.planning.recipe_text import recipe_yaml


@pytest.mark.parametrize("recipe", builtin_recipes().values(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_read_as_it_was_written(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(recipe))
    assert load_recipe(path) == recipe


def test_a_long_expression_is_not_broken(tmp_path):
    scope = "^(" + "|".join(f"block{i}\\\\.conv: #{i}" for i in range(60)) + ")$"
    made = Recipe(name="long", description="of: many # names", rules=(Rule(scope=scope, op="conv2d", mode="float"),))
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(made))
    assert load_recipe(tmp_path / "recipe.yaml") == made


def test_the_example_runs():
    assert doctest.testmod(recipe_text).failed == 0

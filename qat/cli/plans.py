"""What there is to choose from: the plan of a model, the recipes and the targets."""

from __future__ import annotations

from .options import Config, Recipe
from .result import Result
from .runs import open_job


def plan(config: Config, recipe: Recipe = None) -> Result:
    """List the operators of the model: which are quantized, how, and why the others stay float."""
    from qat import api
    from qat.runs.data import RunData
    from qat.runs.float_model import untrained

    job = open_job(config, None, recipe=recipe)
    example = RunData(job.config, job.base).example()
    made = api.plan(untrained(job), example, job.recipe, job.config.target, job.config.model.dynamic)
    document = {"recipe": made.recipe.name, "target": made.target.name, "operators": made.table()}
    return Result(document, made.page())


def recipes() -> Result:
    """List the built-in recipes, each with the targets that have kernels for it, and the targets."""
    from qat.display.page import Page
    from qat.display.table import Column, Table
    from qat.planning.recipe import builtin_recipes
    from qat.planning.recipe_support import able_targets
    from qat.planning.targets import SHORT_FORMS, TARGETS

    able = [(recipe, able_targets(recipe)) for recipe in builtin_recipes().values()]
    made = [{"name": r.name, "description": r.description, "targets": list(names)} for r, names in able]
    described = tuple((r.name, r.description, ", ".join(names)) for r, names in able)
    targets = [{"name": t.name, "suffix": t.suffix, "description": t.description} for t in TARGETS.values()]
    kinds = tuple((t.name, t.suffix or "no artifact", t.description) for t in TARGETS.values())
    page = Page(
        (
            Table((Column("recipe"), Column("does", prose=True), Column("for the targets", prose=True)), described), "",
            Table((Column("target"), Column("writes"), Column("runs on", prose=True)), kinds), "",
            Table((Column("an .onnx for"), Column("is target")), tuple(SHORT_FORMS.items())),
        )
    )  # fmt: skip
    return Result({"recipes": made, "targets": targets, "short_forms": SHORT_FORMS}, page)

"""What there is to choose from: the plan of a model, the recipes and the targets."""

from __future__ import annotations

from .options import Config
from .runs import open_job
from .terminal import console


def plan(config: Config) -> None:
    """List the operators of the model: which are quantized, how, and why the others stay float."""
    from rich.table import Table

    from qat import api
    from qat.runs.data import RunData
    from qat.runs.float_model import untrained

    job = open_job(config, None)
    example = RunData(job.config, job.base).example()
    made = api.plan(untrained(job), example, job.recipe, job.config.target, job.config.model.dynamic)
    table = Table(title=f"{job.config.name}: recipe {made.recipe.name} for {made.target.name}", title_justify="left")
    for column in ("scope", "op", "runs", "how / why"):
        table.add_column(column)
    for row in made.table():
        table.add_row(row["scope"], row["op"], row["runs"], row["reason"] or row["how"])
    console().print(table)


def recipes() -> None:
    """List the built-in recipes, each with the targets that have kernels for it, and the targets."""
    from rich.text import Text

    from qat.planning.recipe import builtin_recipes
    from qat.planning.recipe_support import able_targets
    from qat.planning.targets import SHORT_FORMS, TARGETS

    out = console()
    for recipe in builtin_recipes().values():
        able = f" ({', '.join(able_targets(recipe))})"
        out.print(Text.assemble((recipe.name, "bold"), f": {recipe.description}", (able, "dim")))
    out.print("targets:")
    for target in TARGETS.values():
        out.print(Text.assemble("  ", (target.name, "bold"), f" ({target.suffix or 'no artifact'}): {target.description}"))
    out.print("by where the .onnx will run: " + ", ".join(f"{form} is {name}" for form, name in SHORT_FORMS.items()))

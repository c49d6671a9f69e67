"""What there is to choose from: the plan of a model, the recipes and the targets."""

from __future__ import annotations

from .options import Config
from .runs import open_job
from .terminal import console


def plan(config: Config) -> None:
    """List the operators of the model: which are quantized, how, and why the others stay float."""
    from qat import api
    from qat.display.terminal import show
    from qat.runs.data import RunData
    from qat.runs.float_model import untrained

    job = open_job(config, None)
    example = RunData(job.config, job.base).example()
    made = api.plan(untrained(job), example, job.recipe, job.config.target, job.config.model.dynamic)
    show(made.page(), console())


def recipes() -> None:
    """List the built-in recipes, each with the targets that have kernels for it, and the targets."""
    from qat.display.page import Page
    from qat.display.table import Column, Table
    from qat.display.terminal import show
    from qat.planning.recipe import builtin_recipes
    from qat.planning.recipe_support import able_targets
    from qat.planning.targets import SHORT_FORMS, TARGETS

    described = (Column("recipe"), Column("does", prose=True), Column("for the targets", prose=True))
    made = tuple((r.name, r.description, ", ".join(able_targets(r))) for r in builtin_recipes().values())
    targets = tuple((t.name, t.suffix or "no artifact", t.description) for t in TARGETS.values())
    places = tuple(SHORT_FORMS.items())
    show(
        Page(
            (
                Table(described, made), "",
                Table((Column("target"), Column("writes"), Column("runs on", prose=True)), targets), "",
                Table((Column("an .onnx for"), Column("is target")), places),
            )
        ),
        console(),
    )  # fmt: skip

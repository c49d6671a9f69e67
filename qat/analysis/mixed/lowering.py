"""Programs of a model by recipe, for what does not depend on its ranges: sizes and times."""

from __future__ import annotations

from qat import api
from qat.frameworks import adapter_for, framework_of
from qat.planning.recipe import Recipe
from qat.planning.targets import Target
from qat.program.program import Program
from qat.system.silence import quiet
from qat.typing import Inputs, Model

from .costs import Lower


def lowering(model: Model, example_inputs: Inputs, target: Target) -> Lower:
    """Return what makes the program of a recipe: the ranges are -1 to 1, where the kernels prescribe none."""

    framework = framework_of(model)
    assert framework != "tf_keras"
    adapter = adapter_for(framework)

    def lower(recipe: Recipe) -> Program:
        with quiet():  # what stays float is said where a point is built
            prepared = api.prepare(model, example_inputs, recipe, target)
            for grid in prepared.grids.values():
                grid.set_range(*(grid.group.fixed_range or (-1.0, 1.0)))
            return adapter.lower(prepared)

    return lower

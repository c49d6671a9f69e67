"""Programs of a model by recipe, for what does not depend on its ranges: sizes and times."""

from __future__ import annotations

from qat.captured import Captured
from qat.planning.recipe import Recipe
from qat.program.program import Program
from qat.system.silence import quiet

from .costs import Lower


def lowering(model: Captured) -> Lower:
    """Return what makes the program of a recipe: the ranges are -1 to 1, where the kernels prescribe none."""

    def lower(recipe: Recipe) -> Program:
        with quiet():  # what stays float is said where a point is built
            prepared = model.prepare(recipe)
            for grid in prepared.grids.values():
                grid.set_range(*(grid.group.fixed_range or (-1.0, 1.0)))
            return model.adapter.lower(prepared)

    return lower

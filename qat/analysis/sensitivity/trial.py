"""Recipes tried: prepared, calibrated, exported, and run in the runtime on the same data."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from qat import api
from qat.calibration.calibrate import set_ranges
from qat.planning.plan import Plan
from qat.planning.recipe import Recipe
from qat.planning.targets import Target
from qat.report.running import run_all
from qat.system.silence import without_notices
from qat.typing import Estimator, Inputs, Model, PreparedModel, Samples

from .judge import Judge, Score, check_plan


@dataclass(frozen=True)
class Options:
    """How a model is prepared, besides its recipe: see :func:`qat.prepare` and :func:`qat.calibrate`."""

    target: Target | None = None
    estimator: Estimator | None = None
    equalize: bool = False
    dynamic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """A float model, and all that is needed to prepare it by any recipe.

    Attributes:
        model: the float model.
        example: of its inputs.
        calibration: batches for the ranges.
        options: of its preparation.
    """

    model: Model
    example: Inputs
    calibration: Samples
    options: Options

    def plan(self, recipe: Recipe) -> Plan:
        """Return the model's plan by a recipe."""
        return api.plan(self.model, self.example, recipe, self.options.target, self.options.dynamic)

    def prepared(self, recipe: Recipe) -> PreparedModel:
        """Return the model prepared and calibrated by a recipe."""
        o = self.options
        made = api.prepare(self.model, self.example, recipe, o.target, o.dynamic, o.equalize)
        check_plan(made)
        set_ranges(made, self.calibration, o.estimator)
        return made

    def tried(self, recipe: Recipe, judge: Judge) -> tuple[Score, int]:
        """Return the score of the artifact that a recipe makes, in its runtime, and its size in bytes.

        A target without a runtime is judged by the prepared model itself.
        """
        with without_notices():
            return self._tried(recipe, judge)

    def _tried(self, recipe: Recipe, judge: Judge) -> tuple[Score, int]:
        made = self.prepared(recipe)
        suffix = made.plan.target.suffix
        if not suffix:
            return judge.score([judge.rows(i, judge.adapter.forward(made, x)) for i, x in enumerate(judge.inputs)]), 0
        with tempfile.TemporaryDirectory() as folder:
            artifact = api.export(made, Path(folder) / f"tried{suffix}", io_dtype="float32")
            (run,) = run_all([artifact], judge.inputs, 0, len(judge.inputs))
            outputs = run.outputs or ()
            return judge.score([judge.rows(i, judge.as_judged(i, y, run.names)) for i, y in enumerate(outputs)]), artifact.bytes

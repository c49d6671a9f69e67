"""Recipes tried: prepared, calibrated, exported, and run in the runtime on the same data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from qat import api
from qat.calibration.calibrate import set_ranges
from qat.captured import Captured, captured
from qat.exporters.inspection import inspect
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
class Tried:
    """What became of a recipe.

    Attributes:
        score: of the artifact in its runtime; of the prepared model where its target has no runtime.
        bytes: the artifact's size; 0 without a runtime.
        tensors: by the names of the artifact's tensors and weights, the layers; empty without a runtime.
    """

    score: Score
    bytes: int = 0
    tensors: Mapping[str, str] = field(default_factory=dict)


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

    @cached_property
    def captured(self) -> Captured:
        """The model's capture, which all recipes share."""
        return captured(self.model, self.example, self.options.target, self.options.dynamic)

    def plan(self, recipe: Recipe) -> Plan:
        """Return the model's plan by a recipe."""
        return self.captured.plan(recipe)

    def prepared(self, recipe: Recipe) -> PreparedModel:
        """Return the model prepared and calibrated by a recipe."""
        made = self.captured.prepare(recipe, self.options.equalize)
        check_plan(made)
        set_ranges(made, self.calibration, self.options.estimator)
        return made

    def tried(self, recipe: Recipe, judge: Judge) -> Tried:
        """Return what became of a recipe: of the artifact that it makes, in its runtime."""
        with without_notices():
            return self._tried(recipe, judge)

    def _tried(self, recipe: Recipe, judge: Judge) -> Tried:
        made = self.prepared(recipe)
        suffix = made.plan.target.suffix
        if not suffix:
            return Tried(judge.score([judge.rows(i, judge.adapter.forward(made, x)) for i, x in enumerate(judge.inputs)]))
        with tempfile.TemporaryDirectory() as folder:
            artifact = api.export(made, Path(folder) / f"tried{suffix}", io_dtype="float32")
            (run,) = run_all([artifact], judge.inputs, 0, len(judge.inputs))
            outputs = run.outputs or ()
            score = judge.score([judge.rows(i, judge.as_judged(i, y, run.names)) for i, y in enumerate(outputs)])
            return Tried(score, artifact.bytes, inspect(artifact.path).scopes)

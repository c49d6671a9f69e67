"""Points that are built for real: prepared by their recipe, calibrated, exported, verified, and judged in their runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qat import api
from qat.analysis.sensitivity.judge import Judge, Score
from qat.exporters import Artifact
from qat.planning.recipe import Recipe
from qat.planning.recipe_text import recipe_yaml
from qat.report.running import run_all
from qat.system.atomic_files import write_atomically
from qat.system.silence import without_notices
from qat.trainers.metrics import MetricSpec
from qat.typing import Batches, Estimator, IoDtype, PreparedModel, Samples

from .network import shares
from .problem import Assignment
from .study import Study


@dataclass(frozen=True)
class Built:
    """A point on disk.

    Attributes:
        assignment: the choice of each layer.
        recipe: that builds it, and its file.
        artifact: the file.
        score: of the file in its runtime, in the units of the layers' own scores.
    """

    assignment: dict[str, str]
    recipe: Recipe
    path: Path
    artifact: Artifact
    score: Score


@dataclass
class Builder:
    """Builds points.

    Attributes:
        study: of the model.
        samples: of the calibration.
        data: on which points are verified and judged.
        folder: of the files.
        metrics: that are measured.
        estimator, io_dtype, overwrite: as for :func:`qat.calibrate` and :func:`qat.export`.
    """

    study: Study
    samples: Samples
    data: Batches
    folder: Path
    metrics: Sequence[MetricSpec] | None = None
    estimator: Estimator | None = None
    io_dtype: IoDtype = "int8"
    overwrite: bool = False
    _judge: Judge | None = field(default=None, init=False)

    def build(self, name: str, assignment: Assignment) -> Built:
        """Build a point, write its recipe and its artifact, and judge it."""
        target = self.study.network.target
        recipe = self.study.network.recipe(assignment, name, shares(assignment))
        with without_notices():  # what stays float was chosen so, and the samples are those of the points before
            prepared = self.study.captured.prepare(recipe)
            api.calibrate(prepared, self.samples, self.estimator)
        path = write_atomically(self.folder / f"{name}.yaml", recipe_yaml(recipe), overwrite=self.overwrite)
        where = self.folder / f"{name}{target.suffix}"
        artifact = api.export(prepared, where, self.data, self.io_dtype, self.overwrite)
        return Built(dict(assignment), recipe, path, artifact, self._judged(prepared, artifact))

    def _judged(self, prepared: PreparedModel, artifact: Artifact) -> Score:
        """Return the score of an artifact. The first prepared model gives the float outputs for all."""
        judge = self._judge = self._judge or Judge(prepared, self.data, self.metrics)
        (run,) = run_all([artifact], judge.inputs, 0, len(judge.inputs))
        rows = [judge.rows(i, judge.as_judged(i, outputs, run.names)) for i, outputs in enumerate(run.outputs or ())]
        return judge.score(rows)

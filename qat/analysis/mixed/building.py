"""Points that are built for real: prepared by their recipe, calibrated, exported and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat import api
from qat.exporters import Artifact
from qat.planning.recipe import Recipe
from qat.planning.recipe_text import recipe_yaml
from qat.report.entry import Entry
from qat.report.report import Report
from qat.system.atomic_files import write_atomically
from qat.system.silence import unheard
from qat.trainers.metrics import MetricSpec
from qat.typing import Batches, Estimator, IoDtype, Samples

from .network import shares
from .problem import Assignment
from .study import Study


@dataclass(frozen=True)
class Builder:
    """Builds points.

    Attributes:
        study: of the model.
        samples: of the calibration.
        data: on which points are verified and measured.
        folder: of the files.
        metrics: that are measured.
        estimator, io_dtype, overwrite: as for :func:`qat.calibrate` and :func:`qat.export`.
    """

    study: Study
    samples: Samples
    data: Batches
    folder: Path
    metrics: Sequence[MetricSpec] | None
    estimator: Estimator | None
    io_dtype: IoDtype
    overwrite: bool

    def path(self, name: str, suffix: str = ".yaml") -> Path:
        """Return the path of a point's recipe, or of its artifact."""
        return self.folder / f"{name}{suffix}"

    def recipe(self, name: str, assignment: Assignment) -> Recipe:
        """Return the recipe of a point."""
        return self.study.network.recipe(assignment, name, shares(assignment))

    def build(self, name: str, assignment: Assignment) -> Artifact:
        """Build a point, and write its recipe and its artifact."""
        recipe, target = self.recipe(name, assignment), self.study.network.target
        with unheard():  # what stays float was chosen so, and the samples are those of the points before
            prepared = api.prepare(self.study.model, self.study.example, recipe, target)
            api.calibrate(prepared, self.samples, self.estimator)
        write_atomically(self.path(name), recipe_yaml(recipe), overwrite=self.overwrite)
        return api.export(prepared, self.path(name, target.suffix), self.data, self.io_dtype, self.overwrite)

    def measure(self, artifacts: Mapping[str, Artifact], latency_runs: int) -> Report:
        """Compare points with the float model, each in its runtime."""
        files: dict[str, Any] = {"float": self.study.model, **artifacts}
        return api.compare(files, self.data, latency_runs=latency_runs, metrics=self.metrics)


def drop_of(entry: Entry, report: Report) -> float:
    """Return the drop of a file, as :class:`qat.analysis.mixed.result.Point` describes it."""
    metric = report.metric
    if metric is None or entry.delta is None:
        if entry.agreement is not None:
            return 100 - entry.agreement
        return 0.0 if entry.sqnr is None else 100 * 10 ** (-entry.sqnr / 20)
    reference = next(e for e in report.entries if e.name == report.reference)
    unit = 1.0 if metric.unit == " %" else 100 / max(abs(reference.score(metric) or 0.0), 1e-12)
    return unit * entry.delta * (-1 if metric.higher_is_better else 1) + 0.0  # no -0.0

"""Mixed precision: sensitivities and costs are measured, assignments are chosen, and each is built and measured for real."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from qat import api
from qat.display.progress import bar, shown, tracked
from qat.errors import CaptureError, ConfigError, DataError, nearest
from qat.exporters import Artifact
from qat.frameworks import adapter_for, framework_of, input_count, is_prepared
from qat.planning.recipe import Recipe, load_recipe
from qat.planning.targets import Target, load_target
from qat.report.entry import Entry
from qat.system.atomic_files import make_folder, refuse_existing
from qat.system.samples import batches_of, first_of_pair
from qat.trainers.metrics import MetricSpec
from qat.typing import Batches, Estimator, Inputs, IoDtype, Model, Samples

from .building import Builder, Built
from .choices import Choice, choices_for
from .problem import Amount, Assignment, Problem
from .result import MixedPrecision, Point
from .solver import solve
from .study import Study, chosen_front, times_of
from .times import Times, read_times

#: What is minimized, and the amount that says how much of it a layer costs.
Minimized: TypeAlias = Literal["size", "latency"]
_COSTS: dict[str, Amount] = {"size": "bytes", "latency": "ms"}
#: Steps between the dearest point that misses the budget and the cheapest that keeps it.
_REFINEMENTS = 3


def mixed_precision(
    model: Model | str | Path,
    data: Batches,
    folder: str | Path,
    *,
    minimize: Minimized = "size",
    max_drop: float | None = None,
    max_bytes: int | None = None,
    max_ms: float | None = None,
    points: int = 5,
    choices: Sequence[str | Path | Recipe] | None = None,
    recipe: str | Path | Recipe = "static_wi8_ai8",
    target: str | Target | None = None,
    calibration: Samples | None = None,
    estimator: Estimator | None = None,
    example_inputs: Inputs | None = None,
    latencies: str | Path | Mapping[tuple[str, str], float] | None = None,
    metrics: Iterable[MetricSpec] | None = None,
    latency_runs: int = 50,
    io_dtype: IoDtype = "int8",
    overwrite: bool = False,
    progress: bool = True,
) -> MixedPrecision:
    """Choose the precision of each layer so that the model loses least at each size or latency; build and measure the points.

    What a layer loses in a precision is measured with that layer alone in it
    (:func:`qat.analysis.sensitivity.alternatives.measure_alternatives`); the losses of a model's layers are taken to add up. The
    bytes of its weights are those that the artifact holds. Its kernels are timed on this machine in the target's runtime, each as
    a file of its own, and so are the conversions between integer and float neighbours. A mixed-integer linear program chooses;
    the planner has the last word on what can stand side by side. Each point is then prepared, calibrated, exported, verified and
    measured in its runtime: what was predicted stands beside what was measured.

    Args:
        model: a float model, or the path of a file, as for :func:`qat.prepare`.
        data: batches of ``(inputs, labels)``, or of inputs alone, on which sensitivities and points are measured. Those of
            validation: a test set that chooses a point says nothing of it.
        folder: receives a recipe (``mixed_1.yaml``) and an artifact for each point.
        minimize: ``size``, the bytes of the weights, or ``latency``, the milliseconds of the kernels and conversions.
        max_drop: how much worse the first metric may be than float's, in percentage points where its unit is a percent, else in
            percent of its value: ``best`` is the cheapest point within it, by what was measured.
        max_bytes: the most bytes of weights.
        max_ms: the most milliseconds, as predicted.
        points: the most that are built, at even steps of the cost.
        choices: the precisions: recipes of one rule, by name, path or as objects, and ``float``. None takes every built-in one
            that the target has kernels for.
        recipe: whose rules operators without weights follow, and layers that no precision was chosen for.
        target: as for :func:`qat.prepare`.
        calibration: samples for the ranges; None takes the inputs of ``data``.
        estimator: as for :func:`qat.calibrate`.
        example_inputs: as for :func:`qat.prepare`; None takes the first batch of ``data``.
        latencies: milliseconds in the place of timing, for a machine that is not this one: by ``(layer, choice)``, or a ``.csv``
            or ``.yaml`` with the columns ``layer``, ``choice``, ``ms``. A row whose choice is ``quantize`` or ``dequantize`` is a
            conversion of what that layer, or input, writes; such conversions cost nothing where they have no row.
        metrics: as for :func:`qat.compare`; the first one decides.
        latency_runs: as for :func:`qat.compare`.
        io_dtype: as for :func:`qat.export`.
        overwrite: whether existing files may be replaced.
        progress: as for :func:`qat.calibrate`.

    Returns:
        The points, the cheapest first, the uniform one of ``recipe`` beside them, and every option that was weighed.

    Raises:
        ConfigError: the choices, limits or latencies do not fit the model or the target.
        DataError: no data, or data that do not fit.
        ExportError: a file exists already.

    Examples:
        >>> import numpy as np, qat, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> labels = net(torch.from_numpy(x)).argmax(1).numpy()
        >>> found = qat.mixed_precision(net, [(x, labels)], "mixed", points=2, target="litert", latency_runs=0)
        >>> [point.predicted.bytes for point in found.points][0]
        28
    """
    with shown(progress), bar("mixed precision"):
        runtime, base = _target(model, target), load_recipe(recipe)
        cost, chosen, times = check(
            runtime, Path(folder), minimize=minimize, points=points, max_drop=max_drop, max_ms=max_ms, choices=choices,
            latencies=latencies, overwrite=overwrite,
        )  # fmt: skip
        batches = [*batches_of(data, "the data of mixed precision")]
        if not batches:
            raise DataError("mixed precision got no data: pass at least one batch (a generator that was used up yields none)")
        samples = batches if calibration is None else [*batches_of(calibration, "calibration")]
        wanted = None if metrics is None else list(metrics)
        loaded, example = _loaded(model, example_inputs, batches)
        study = Study(loaded, example, base, runtime, chosen, times, io_dtype)
        builder = Builder(study, samples, batches, Path(folder), wanted, estimator, io_dtype, overwrite)
        make_folder(builder.folder)
        losses = study.losses(batches, samples, wanted)
        limits: dict[Amount, float] = {} if max_bytes is None else {"bytes": float(max_bytes)}
        limits |= {} if max_ms is None else {"ms": float(max_ms)}
        search = _Search(study, builder, study.problem(losses), cost, limits)
        search.build(chosen_front(study, search.problem, cost, points, limits))
        if max_drop is not None:
            search.refine(max_drop)
        uniform = study.network.uniform(base.name) if base.name in study.network.choices else None
        return search.result(minimize, uniform, max_drop, latency_runs)


class _Search:
    """Points that are built one after another.

    Attributes:
        problem: what there is to choose.
        built: the points, by name.
    """

    def __init__(self, study: Study, builder: Builder, problem: Problem, cost: Amount, limits: Mapping[Amount, float]) -> None:
        self.study, self.builder, self.problem = study, builder, problem
        self.cost, self.limits = cost, dict(limits)
        self.built: dict[str, Built] = {}

    def build(self, assignments: Sequence[Assignment]) -> None:
        """Build points."""
        for assignment in tracked(assignments, "points"):
            name = _name(len(self.built) + 1)
            self.built[name] = self.builder.build(name, assignment)

    def refine(self, max_drop: float) -> None:
        """Build points between the dearest that misses the budget and the cheapest that keeps it, at half their costs."""
        for _ in range(_REFINEMENTS):
            high = min((self._cost(name) for name, b in self.built.items() if b.score.drop <= max_drop), default=0.0)
            missing = [self._cost(name) for name, b in self.built.items() if b.score.drop > max_drop]
            low = max((cost for cost in missing if cost < high), default=None)
            found = None if low is None else self._within((low + high) / 2)
            if found is None or any(found == b.assignment for b in self.built.values()):
                return
            self.build([found])

    def _cost(self, name: str) -> float:
        return float(getattr(self.problem.totals(self.built[name].assignment), self.cost))

    def _within(self, most: float) -> dict[str, str] | None:
        """Return the assignment of least loss that costs no more."""
        limits = self.limits | {self.cost: most}

        def choose(problem: Problem) -> list[dict[str, str]]:
            found = solve(problem, ("loss", self.cost), limits)
            return [] if found is None else [found]

        return next(iter(self.study.kept(self.problem, choose)[1]), None)

    def result(self, minimized: str, uniform: Assignment | None, max_drop: float | None, latency_runs: int) -> MixedPrecision:
        """Compare all points, the uniform one among them, and return the result."""
        names = sorted(self.built, key=self._cost)
        even = next((name for name in names if self.built[name].assignment == uniform), None)
        if uniform is not None and even is None and not self.study.network.refused(uniform):
            even = "uniform"
            self.built[even] = self.builder.build(even, uniform)
        files: dict[str, Model | Artifact] = {"float": self.study.model} | {n: b.artifact for n, b in self.built.items()}
        report = api.compare(files, self.builder.data, latency_runs=latency_runs, metrics=self.builder.metrics)
        entries = {entry.name: entry for entry in report.entries}
        made = {name: self._point(name, built, entries[name]) for name, built in self.built.items()}
        target, points = self.study.network.target.name, tuple(made[name] for name in names)
        even_point = None if even is None else made[even]
        return MixedPrecision(minimized, target, self.problem.options, points, even_point, max_drop, report)

    def _point(self, name: str, built: Built, entry: Entry) -> Point:
        predicted = self.study.totals(self.problem, built.assignment)
        return Point(name, built.assignment, predicted, built.recipe, built.path, entry, built.score)


def _name(number: int) -> str:
    return f"mixed_{number}"


def check(
    target: Target,
    folder: Path,
    *,
    minimize: str = "size",
    points: int = 5,
    max_drop: float | None = None,
    max_ms: float | None = None,
    choices: Sequence[str | Path | Recipe] | None = None,
    latencies: str | Path | Mapping[tuple[str, str], float] | None = None,
    overwrite: bool = False,
    **_: object,
) -> tuple[Amount, tuple[Choice, ...], Times | None]:
    """Look at the arguments of :func:`mixed_precision` before any work: what is minimized, the choices, the times.

    Raises:
        ConfigError: one of them cannot be.
        ExportError: a file exists already.
    """
    if minimize not in _COSTS:
        valid = get_args(Minimized)
        raise ConfigError(f"minimize is one of {', '.join(valid)}, not '{minimize}'{nearest(minimize, valid)}")
    if points < 1:
        raise ConfigError(f"points is 1 or more, not {points}")
    if max_drop is not None and not max_drop >= 0:
        raise ConfigError(f"max_drop is 0 or more, not {max_drop:g}")
    if not target.suffix:
        raise ConfigError(f"target '{target.name}' has no artifacts whose points could be measured: name another target")
    if not overwrite:
        names = map(_name, range(1, points + 1))
        refuse_existing(*(folder / f"{name}{suffix}" for name in names for suffix in (".yaml", target.suffix)))
    given = read_times(latencies) if isinstance(latencies, (str, Path)) else latencies
    times = times_of(target, given, minimize == "latency" or max_ms is not None)
    return _COSTS[minimize], choices_for(target, choices), times


def _target(model: Model | str | Path, target: str | Target | None) -> Target:
    """Return the target, by the file or the framework where none is named."""
    if target is None and isinstance(model, (str, Path)):
        target = "litert" if Path(model).suffix == ".tflite" else "onnxruntime"
    return load_target(adapter_for(framework_of(model)).DEFAULT_TARGET if target is None else target)


def _loaded(model: Model | str | Path, example: Inputs | None, batches: Sequence[object]) -> tuple[Model, Inputs]:
    """Return the float model, that of a file loaded, and a batch of its inputs.

    Raises:
        CaptureError: the model is prepared, or a layer of a ``tf_keras`` model has no like in Keras 3.
    """
    if isinstance(model, (str, Path)):
        loaded = api.load(model, example)
        return loaded, example if example is not None else first_of_pair(batches[0], input_count(loaded))
    if is_prepared(model):
        raise CaptureError("mixed precision takes a float model of PyTorch or Keras, or the path of a float file")
    framework = framework_of(model)
    found: Model = adapter_for(framework).as_keras3(model) if framework == "tf_keras" else model
    return found, example if example is not None else first_of_pair(batches[0], input_count(model))

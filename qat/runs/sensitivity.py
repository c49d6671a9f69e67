"""The sensitivity of a configuration's model: measured on its validation data, with the files of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qat.analysis.pins.files import write_pins
from qat.analysis.pins.places import places_of
from qat.analysis.sensitivity.files import refuse_results, write_results
from qat.analysis.sensitivity.layers import Part
from qat.analysis.sensitivity.pinning import Pin
from qat.analysis.sensitivity.result import Sensitivity
from qat.analysis.sensitivity.sensitivity import Method, check_options, sensitivity
from qat.baselines import float_baseline

from . import float_model
from .data import RunData
from .float_model import FloatModel
from .job import Job


@dataclass(frozen=True)
class Options:
    """The options of a measurement, those of :func:`qat.sensitivity`.

    Attributes:
        samples: the most validation samples that are measured on.
    """

    method: Method
    what: Part
    threshold: float
    budget: float | None
    samples: int
    try_recipes: bool


def measure(job: Job, options: Options, overwrite: bool) -> tuple[Sensitivity, Mapping[str, Path]]:
    """Return the sensitivity of a configuration's float model by its recipe, and the files that were written.

    Raises:
        ConfigError: an option is unknown or out of range.
        ExportError: a result exists, and ``overwrite`` is False.
    """
    check_options(options.method, options.what, options.threshold, options.budget)
    if not overwrite:
        refuse_results(job.folder)  # before the work
    c = job.config
    data = job.stage("data", lambda: RunData(c, job.base))
    with job.alone():
        model = job.stage("float model", lambda: float_model.trained(job, data))
        found = job.stage(
            "sensitivity",
            lambda: sensitivity(
                model.model, list(data.batches("validation", options.samples)), calibration=data.calibration_pairs()[0],
                recipe=job.recipe, target=job.target, example_inputs=data.example(), method=options.method, what=options.what,
                threshold=options.threshold, budget=options.budget, metrics=c.training.chosen_metrics if data.labelled else None,
                estimator=c.calibration.estimator, equalize=c.equalize, dynamic=c.model.dynamic, try_recipes=options.try_recipes,
            ),
        )  # fmt: skip
        files = write_results(found, job.folder, overwrite)
        pins = () if found.chosen is None else found.chosen.pins
        if pins:
            files |= job.stage("pins for other tools", lambda: _pins(job, data, model, pins))
        return found, files


def _pins(job: Job, data: RunData, model: FloatModel, pins: Sequence[Pin]) -> dict[str, Path]:
    """Write the pins by the names of the float file that other tools quantize, and that file."""
    example = data.example()
    written = float_baseline(model.model, example, job.folder, target=job.target)
    if written.path is None:
        job.console.print(f"  no pins for other tools: the float model cannot be exported ({written.error})")
        return {}
    prepared = model.captured.prepare(job.recipe)
    inputs = example if isinstance(example, (tuple, list)) else (example,)
    places = places_of(prepared, pins, written.path, inputs)
    for place in places:
        if not place.operators:
            job.console.print(f"  {place.pin.layer} ({place.pin.kind}) is not to be seen in {written.path}: its pin is left out")
    return {"float": written.path} | write_pins(places, written.path, job.folder)

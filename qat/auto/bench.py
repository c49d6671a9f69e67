"""What a search works with: the configuration's job, its data, the float model and the judge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.analysis.diagnosis.diagnose import diagnosed
from qat.analysis.mixed.mixed_precision import mixed_precision
from qat.analysis.sensitivity.sensitivity import sensitivity
from qat.errors import QatError
from qat.frameworks import input_count
from qat.planning.recipe import load_recipe
from qat.planning.recipe_support import able_targets
from qat.runs.data import RunData
from qat.runs.float_model import FloatModel
from qat.runs.job import Job
from qat.system.samples import first_of_pair

from .building import folder_of
from .choices import Choices
from .goal import Goal
from .judging import Judge

log = logging.getLogger("qat")

#: The validation samples of a diagnosis.
_DIAGNOSED = 128
#: The precisions that are mixed, where the target has kernels for them; those of fewer bits would lose more.
_PRECISIONS = ("static_wi8_ai8", "static_wi8_ai16", "float16")
#: The most validation samples on which layers are told apart.
_SAMPLES = 1024


class NothingToChange(QatError):
    """A step found nothing that it could change; the message says why."""


@dataclass(frozen=True)
class Bench:
    """What a search works with.

    Attributes:
        job, data: of the configuration.
        model: the float model.
        judge: holds artifacts against it.
        goal: what is looked for.
    """

    job: Job
    data: RunData
    model: FloatModel
    judge: Judge
    goal: Goal


def diagnosis_of(bench: Bench, artifact: Path) -> tuple[str, str]:
    """Return the cause that the diagnosis of an artifact names first, and its sentence; both are empty where it names none."""
    file, data = bench.judge.file.path, bench.data
    assert file is not None
    batches = [first_of_pair(batch, input_count(bench.model.model)) for batch in data.batches("validation", limit=_DIAGNOSED)]
    rows = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    try:
        found = diagnosed(file, artifact, tuple(np.concatenate(column)[:_DIAGNOSED] for column in zip(*rows, strict=True)))
    except (QatError, ValueError, TypeError) as error:  # a file that it does not read, inputs by name
        log.info("no diagnosis of %s: %s", artifact.name, error)
        return "", ""
    return found.cause, found.verdict()


def without_sensitive_layers(choices: Choices, bench: Bench) -> Choices:
    """Return the choices with the layers that lose most in 16 bits or in float, as few as are enough on validation samples.

    Raises:
        NothingToChange: no such recipe loses less than the one given.
    """
    config = choices.configured(bench.job.config)
    found = sensitivity(
        bench.model.model, bench.judge.some(_SAMPLES), calibration=bench.data.calibration(), recipe=choices.recipe,
        target=bench.job.target, example_inputs=bench.data.example(), method="fast", threshold=bench.goal.max_drop,
        metrics=bench.judge.metrics, estimator=choices.estimator, equalize=config.equalize, dynamic=config.model.dynamic,
    )  # fmt: skip
    chosen = found.chosen
    if chosen is None or not chosen.pins:
        raise NothingToChange(f"no recipe with layers in higher precision lost less on {found.samples:,} samples")
    names = list(dict.fromkeys(pin.layer for pin in chosen.pins))
    bench.job.console.print(f"  {len(names)} layers in {chosen.precision}: {shown(names)}", style="dim")
    return Choices(**{**vars(choices), "recipe": chosen.recipe})


def mixed_precisions(choices: Choices, bench: Bench) -> Choices:
    """Return the choices with each layer in 8 bits, in 16, in float16 or in float: the smallest that is enough.

    Raises:
        NothingToChange: no mixture is enough on validation samples.
    """
    job, goal = bench.job, bench.goal
    able = [name for name in _PRECISIONS if job.target.name in able_targets(load_recipe(name))]
    found = mixed_precision(
        bench.model.model, bench.judge.some(_SAMPLES), folder_of(job, "mixed_precision") / "points", max_drop=goal.max_drop,
        points=3, choices=[*able, "float"], recipe=choices.recipe, target=job.target, calibration=bench.data.calibration(),
        estimator=choices.estimator, example_inputs=bench.data.example(), metrics=bench.judge.metrics, latency_runs=0,
        io_dtype=job.config.io_dtype, overwrite=True,
    )  # fmt: skip
    if found.best is None:
        raise NothingToChange(f"none of {len(found.points)} mixtures of {', '.join(able)} and float is enough")
    return Choices(**{**vars(choices), "recipe": found.best.recipe})


def shown(names: Sequence[str], most: int = 5) -> str:
    """Return names, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

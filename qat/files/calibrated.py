"""A float model, calibrated: by the estimator whose outputs are nearest to float's, coordinates unrounded where that helps."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from qat.analysis.checks.check import check_data
from qat.analysis.sensitivity.result import LayerSensitivity
from qat.analysis.sensitivity.sensitivity import sensitivity
from qat.calibration.adaround import LearnedRoundings
from qat.calibration.bias_correction import OutputCorrection, QuickCorrection
from qat.calibration.calibrate import set_ranges
from qat.calibration.coarse_outputs import coarse_outputs
from qat.calibration.evidence import Evidence
from qat.captured import Captured, captured
from qat.display.progress import shown
from qat.planning.output_layers import output_layers, unrounded
from qat.planning.recipe import Recipe, Rule
from qat.program.file_origin import origin_of
from qat.report.statistics import error_percent
from qat.system.sample_axes import samples_first
from qat.system.silence import without_notices
from qat.trainers.output_losses import OutputLosses, choose
from qat.typing import Estimator

from .inputs import unpacked
from .opened import Opened
from .request import Request

log = logging.getLogger("qat")

Arrays = tuple[np.ndarray, ...]
#: What may follow calibration, and can be taken back.
Refinement = QuickCorrection | LearnedRoundings | OutputCorrection

#: The most samples that calibrate, and the most that judge the ranges.
CALIBRATING, JUDGING = 128, 64
#: The most samples that show what biases are to be corrected by and roundings learn from, and the most that rank layers.
REFINING, RANKING = 32, 16
#: Roundings are learned where outputs are off by this: those of so many layers, each of fewer numbers than the last.
ROUGH, LEARNING, LARGE = 5e-3, 8, 2**18
#: One of so many samples is held out, at least one batch of them.
HELD_OUT = 8

#: The estimators that are tried where neither the request nor the recipe names one.
TRIED: tuple[Estimator, ...] = ("minmax", "percentile", "mse", "importance")


@dataclass(frozen=True)
class Calibrated:
    """A model on the integer grid.

    Attributes:
        model: the prepared one.
        captured: the float model's capture.
        estimator: that found its ranges; None where the recipe has none to find, or rules name several.
        unrounded: the outputs that leave as float values, since their own grid made much of their error.
        precise: the layers in higher precision, and in which, by the bounds that are asked for.
        refined: what brought its outputs nearer to float's after calibration.
    """

    model: Any
    captured: Captured
    estimator: Estimator | None = None
    unrounded: tuple[str, ...] = ()
    precise: tuple[str, ...] = ()
    precision: str = ""
    refined: tuple[Refinement, ...] = ()


def calibrated(trial: Trial) -> Calibrated:
    """Prepare and calibrate an opened model."""
    request = trial.request
    recipe = request.full_recipe()
    float_model = captured(trial.opened.model, trial.samples[0], request.target)
    prepared: Any = float_model.prepare(recipe)
    statics = [rule for rule in recipe.rules if rule.mode == "static"]
    if not statics:
        return Calibrated(prepared, float_model)
    named = any(rule.activation.estimator != Rule().activation.estimator for rule in statics)
    estimator = request.estimator if request.estimator or named else trial.nearest(prepared)
    trial.set_ranges(prepared, estimator, last=True)
    found = Calibrated(prepared, float_model, estimator or (None if named else TRIED[0]))
    if request.outputs != "int8" and request.io_dtype == "float32":
        found = trial.freed(found, recipe)
    return replace(found, refined=trial.refined(found.model))


@dataclass
class Trial:
    """A float model with the samples that calibrate it and judge what comes of it.

    Attributes:
        opened, request: the model, and the options.
        samples: that calibrate.
        judging: that judge.
    """

    opened: Opened
    request: Request
    samples: Sequence[Arrays]
    judging: Sequence[Arrays]

    @classmethod
    def of(cls, opened: Opened, request: Request, kept: Sequence[Arrays], judging: int = JUDGING) -> Trial:
        """Share out the batches to learn from.

        Args:
            opened, request: the model, and the options.
            kept: the batches. The first calibrate, those after them judge; of few batches all do both.
            judging: the most samples that judge.
        """
        count = -(-CALIBRATING // opened.batch)
        return cls(opened, request, kept[:count], kept[count : count + -(-judging // opened.batch)] or kept[:count])

    @property
    def judges_itself(self) -> bool:
        """Whether the samples that calibrate judge too, since there are no more."""
        return self.judging[0] is self.samples[0]

    @cached_property
    def real(self) -> list[np.ndarray]:
        """The float outputs for the samples that judge."""
        return self.opened.outputs(self.opened.model, self.judging)

    @cached_property
    def losses(self) -> OutputLosses:
        """The losses of the outputs."""
        return choose({str(i): y for i, y in enumerate(self.real)}, None, self.opened.suffix == ".onnx")

    def set_ranges(self, model: Any, estimator: Estimator | None, last: bool = False) -> None:
        """Calibrate, and say what was seen where it is the last time."""
        with shown(self.request.progress):
            seen = set_ranges(model, unpacked(self.samples), estimator)
        if last:
            self.say(seen)

    def say(self, seen: Evidence) -> None:
        """Say what is not fine with the samples; of random ones that they are few, the rest was said when they were made."""
        random = self.opened.samples.random
        if not random:
            axes = self.opened.samples.axes
            named = [dict(zip(seen.names, map(samples_first, batch, axes), strict=True)) for batch in self.samples]
            check_data(named, progress=self.request.progress).log()
        seen.log(checked=not random)

    def off(self, model: Any) -> float:
        """Return how far a model's outputs are from float's, in the losses that training would have."""
        return float(self.losses.values(self.opened.outputs(model, self.judging), self.real).mean())

    def nearest(self, model: Any) -> Estimator:
        """Return the estimator with whose ranges the outputs are nearest to float's."""
        off = {}
        for estimator in TRIED:
            self.set_ranges(model, estimator)
            off[estimator] = self.off(model)
        return min(TRIED, key=off.__getitem__)

    def refined(self, model: Any) -> tuple[Refinement, ...]:
        """Correct biases, learn roundings and correct the outputs' means, each where that brings outputs nearer to float's."""
        samples = unpacked(self.samples[: -(-REFINING // self.opened.batch)])
        with without_notices():  # of layers that have nothing to refine
            correction = QuickCorrection(model, samples)
        found, off = self._kept(correction, model, self.off(model))
        if self.request.start is not None:
            return found  # which learns roundings, and ends with the means
        if off >= ROUGH:
            with without_notices():
                roundings = self._roundings(model, samples)
            learned, off = self._kept(roundings, model, off)
            found += learned
        return found + self.centred(model, off)

    def centred(self, model: Any, off: float) -> tuple[Refinement, ...]:
        """Correct the means of a model's outputs, which are off by so much."""
        with without_notices():
            correction = OutputCorrection(model, unpacked(self.samples))
        return self._kept(correction, model, off)[0]

    def _kept(self, step: Refinement, model: Any, off: float) -> tuple[tuple[Refinement, ...], float]:
        """Take a step, or leave it where the outputs come no nearer to float's; return what is kept, and how far they are off."""
        step.apply()
        if (now := self.off(model)) < off:
            return (step,), now
        step.take_back()
        return (), off

    def losses_of(self, model: Any, judging: Sequence[Arrays]) -> tuple[LayerSensitivity, ...]:
        """Return what each layer of a model makes of its error on batches, by one pass over them."""
        batches, progress = unpacked(judging), self.request.progress
        return sensitivity(model, batches, method="fast", threshold=100.0, try_recipes=False, progress=progress).layers

    def _roundings(self, model: Any, samples: Sequence[Any]) -> LearnedRoundings:
        """Return what learns the roundings of the layers whose weights lose most."""
        rows = self.losses_of(model, self.judging[: -(-RANKING // self.opened.batch)])
        sizes = {p.op.layer: self.opened.adapter.parameter(model, p.op.params["weight"]).size for p in model.plan.ops if p.weight}
        small = [row for row in rows if sizes.get(row.layer, LARGE) < LARGE]
        worst = sorted(small, key=lambda row: -row.estimate * row.weight_share)[:LEARNING]
        return LearnedRoundings(model, samples, {row.layer for row in worst})

    def shown(self, outputs: Sequence[str], chosen: Container[str]) -> tuple[str, ...]:
        """Return the names of chosen outputs: those of the file where the model was read from one."""
        origin = origin_of(self.opened.model)
        names = outputs if origin is None else [tensor.name for tensor in origin.outputs]
        return tuple(name for name, output in zip(names, outputs, strict=True) if output in chosen)

    def freed(self, found: Calibrated, recipe: Recipe) -> Calibrated:
        """Let the outputs leave unrounded whose grid makes much of their error, where that lowers it; or all that can."""
        plan, estimator = found.model.plan, found.estimator
        got = self.opened.outputs(found.model, self.judging)
        numbers = {name for name, loss in zip(plan.graph.outputs, self.losses.each, strict=True) if loss.name == "mse"}
        wished = self.request.outputs == "float"
        coarse = coarse_outputs(found.model, got, self.real)
        names = plan.graph.outputs if wished else [name for name in coarse if name in numbers]
        rules = {name: unrounded(plan, output_layers(plan, name)) for name in names}
        rules = {name: rule for name, rule in rules.items() if rule}
        if wished and len(rules) < len(names):
            kept = ", ".join(f"'{name}'" for name in self.shown(names, set(names) - set(rules)))
            said = "%s: no kernel leaves the outputs %s unrounded: their last operators have no weights"
            log.warning(said, self.opened.name, kept)
        while rules:
            wanted = self.request.full_recipe([rule for each in rules.values() for rule in each])
            model: Any = found.captured.prepare(wanted)
            self.set_ranges(model, estimator)
            outputs = zip(plan.graph.outputs, self.opened.outputs(model, self.judging), got, self.real, strict=True)
            better = {name for name, now, then, y in outputs if error_percent([now], [y]) < error_percent([then], [y])}
            if wished or better.issuperset(rules):
                return replace(found, model=model, unrounded=self.shown(plan.graph.outputs, rules))
            rules = {name: rule for name, rule in rules.items() if name in better}
        return found

"""Mixed precision of a file: operators stay in higher precision, those that lose most first, until the bounds hold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qat.analysis.sensitivity.layers import Layer, layers_of
from qat.analysis.sensitivity.pinning import PinnedRecipe, all_pins, pinned
from qat.captured import Captured
from qat.errors import ConfigError, OptionError
from qat.planning.rounding import Rounding
from qat.system.silence import without_notices

from .bounds import Bounds
from .calibrated import CALIBRATING, HELD_OUT, JUDGING, Arrays, Calibrated, Trial
from .distance import same_answers
from .inputs import joined

log = logging.getLogger("qat")

#: A recipe whose error is above the bound is followed by one that is predicted to stay this much below the next goal.
_FIRMER = 0.97
#: The most samples that judge answers: the few whose answer a small error changes have to be among them.
_DECIDING = 1024
#: With so many samples each has one part: to calibrate, to judge, or to be held out.
_ENOUGH = HELD_OUT * (CALIBRATING + JUDGING) // (HELD_OUT - 1) + 1


def bounded(found: Calibrated, trial: Trial, kept: Sequence[Arrays]) -> Calibrated:
    """Return a calibrated model that keeps ``request.max_error`` and ``request.same_answers``, few operators in higher precision.

    Layers are ordered by their sensitivity, estimated from gradients (:mod:`qat.analysis.sensitivity.fast`). How many are enough
    is found by passes in float with the roundings of the others alone; then the recipe is prepared, calibrated and measured, and
    more layers join where that misses the bounds: one, two, four, then half of the rest at most.

    Args:
        found: the model as it is calibrated without a bound.
        trial: its samples.
        kept: the batches that these were taken from: answers are judged by more.

    Raises:
        OptionError: no recipe that quantizes anything keeps the bounds, or no output has answers to keep.
    """
    opened, request = trial.opened, trial.request
    bounds = Bounds(request.max_error, request.same_answers)
    if not bounds:
        return found
    if request.same_answers is not None:
        trial = Trial.of(opened, request, kept, _DECIDING)
    if request.same_answers is not None and same_answers(trial.real, trial.real, trial.losses) is None:
        raise OptionError("same_answers", f"{opened.name}: no output is of classes, so that none is an answer: take max_error")
    if trial.judges_itself:
        log.warning(
            "%s: %s is held on the samples that calibrate, and others may be further off: give %d samples or more",
            opened.name, " and ".join(bounds.options), _ENOUGH,
        )  # fmt: skip
    got = nearest = opened.outputs(found.model, trial.judging)
    off = least = bounds.off(got, trial.real, trial.losses)
    if off <= 1:
        return found
    if not found.model.grids:
        raise OptionError(
            bounds.options[0],
            f"{opened.name}: recipe '{found.model.plan.recipe.name}' has no layer in integers that could stay in higher "
            f"precision: it has {bounds.found(got, trial.real, trial.losses)}, not {bounds.asked()}; ask for less, or take a "
            "static recipe",
        )
    for step in reversed(found.refined):  # layers are ranked beside the float model
        step.take_back()
    ranked = _Ranked.of(found, trial, bounds)
    goal, count, more, made = 1.0, 0, 1, found
    while off > 1:
        count = max(ranked.enough(goal), count + more)
        more = min(2 * more, max((len(ranked.layers) - count) // 2, 1))
        recipe = ranked.recipe(count)
        if recipe is None:
            raise OptionError(
                bounds.options[0],
                f"{opened.name}: no recipe that quantizes anything keeps {bounds.asked()}, the nearest has "
                f"{bounds.found(nearest, trial.real, trial.losses)}: ask for less, or train",
            )
        with without_notices():  # what stays float was chosen so
            model: Any = found.captured.prepare(recipe.recipe)
        trial.set_ranges(model, found.estimator)
        refined = trial.refined(model)
        got = opened.outputs(model, trial.judging)
        off = bounds.off(got, trial.real, trial.losses)
        least, nearest = (off, got) if off < least else (least, nearest)
        goal *= _FIRMER / max(off, 1)
        names = tuple(dict.fromkeys(pin.layer for pin in recipe.pins))
        made = replace(found, model=model, precise=names, precision=recipe.precision, refined=refined)
    return made


@dataclass(frozen=True)
class _Ranked:
    """The layers of a calibrated model, those first that lose most.

    Attributes:
        model: the model.
        captured: the float model's capture.
        trial: its samples.
        bounds: of its outputs.
        layers: in that order.
        weight_shares: how much of each one's loss its weights make.
    """

    model: Any
    captured: Captured
    trial: Trial
    bounds: Bounds
    layers: tuple[Layer, ...]
    weight_shares: tuple[float, ...]

    @classmethod
    def of(cls, found: Calibrated, trial: Trial, bounds: Bounds) -> _Ranked:
        """Order the layers of a model."""
        model = found.model
        by_name = {(layer.name, layer.kind): layer for layer in layers_of(model.plan)}
        rows = sorted(trial.losses_of(model, trial.judging), key=lambda row: -row.estimate)
        return cls(
            model,
            found.captured,
            trial,
            bounds,
            tuple(by_name[r.layer, r.kind] for r in rows),
            tuple(r.weight_share for r in rows),
        )

    def enough(self, goal: float) -> int:
        """Return how many layers have to round nothing for outputs that are off by at most a goal; by bisection."""
        low, high = 0, len(self.layers)
        while low < high:
            middle = (low + high) // 2
            if self._off(middle) <= goal:
                high = middle
            else:
                low = middle + 1
        return low

    def recipe(self, count: int) -> PinnedRecipe | None:
        """Return the recipe in which the first layers are in higher precision; None where nothing would be quantized."""
        plan = self.model.plan
        pins = all_pins(plan, self.layers[:count], self.weight_shares[:count])

        if count > len(self.layers):
            return None
        try:
            return pinned(plan.recipe, pins, plan.recipe.name, self.captured.plan)
        except ConfigError:  # all of the model would be float
            return None

    def _off(self, count: int) -> float:
        """Return how far off the outputs are where the first layers round nothing and the others do."""
        rounded: dict[str, Rounding] = {}
        for layer in self.layers[count:]:
            rounded |= layer.variant("both")
        adapter, parts = self.trial.opened.adapter, []
        for batch in self.trial.judging:
            parts += [y for _, y in adapter.simulate(self.model, adapter.inputs_of((batch,)), [rounded])]
        opened = self.trial.opened
        got = joined(parts, opened.batch, opened.samples.axes)
        return self.bounds.off(got, self.trial.real, self.trial.losses)

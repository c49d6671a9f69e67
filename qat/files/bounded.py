"""Mixed precision of a file: operators stay in higher precision, those that lose most first, until an error bound holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat import api
from qat.analysis.sensitivity.layers import Layer, layers_of
from qat.analysis.sensitivity.pinning import PinnedRecipe, all_pins, pinned
from qat.analysis.sensitivity.sensitivity import sensitivity
from qat.errors import ConfigError, OptionError
from qat.planning.plan import Plan
from qat.planning.recipe import Recipe
from qat.planning.rounding import Rounding
from qat.report.statistics import error_percent
from qat.system.silence import without_notices

from .calibrated import CALIBRATING, HELD_OUT, JUDGING, Arrays, Calibrated, Trial
from .inputs import unpacked
from .opened import Opened
from .request import Request

log = logging.getLogger("qat")

#: A recipe whose error is above the bound is followed by one that is predicted to stay this much below the next goal.
_FIRMER = 0.97
#: With so many samples each has one part: to calibrate, to judge, or to be held out.
_ENOUGH = HELD_OUT * (CALIBRATING + JUDGING) // (HELD_OUT - 1) + 1


def bounded(found: Calibrated, opened: Opened, request: Request, kept: Sequence[Arrays]) -> Calibrated:
    """Return a calibrated model whose error is at most ``request.max_error``, with as few operators in higher precision.

    Layers are ordered by their sensitivity, estimated from gradients (:mod:`qat.analysis.sensitivity.fast`). How many are enough
    is found by passes in float with the roundings of the others alone; then the recipe is prepared, calibrated and measured, and
    more layers join where that misses the bound.

    Args:
        found: the model as it is calibrated without a bound.
        opened, request, kept: as for :func:`qat.files.calibrated.calibrated`.

    Raises:
        OptionError: no recipe that quantizes anything keeps the bound.
    """
    most = request.max_error
    if most is None or not found.model.grids:
        return found
    trial = Trial.of(opened, request, kept)
    if trial.judges_itself:
        log.warning(
            "%s: max_error is held on the samples that calibrate, and others may be further off: give %d samples or more",
            opened.name, _ENOUGH,
        )  # fmt: skip
    error = least = trial.error(found.model)
    if error <= most:
        return found
    ranked = _Ranked.of(found.model, trial)
    goal, count, made = most, 0, found
    while error > most:
        count = max(ranked.enough(goal), count + 1)
        recipe = ranked.recipe(count)
        if recipe is None:
            raise OptionError(
                "max_error",
                f"{opened.name}: no recipe that quantizes anything keeps an error of {most:g} %, the least is {least:.2f} %: "
                "raise max_error, or train",
            )
        with without_notices():  # what stays float was chosen so
            model: Any = api.prepare(opened.model, kept[0], recipe.recipe, request.target)
        trial.set_ranges(model, found.estimator)
        error = trial.error(model)
        least, goal = min(least, error), goal * _FIRMER * most / max(error, most)
        names = tuple(dict.fromkeys(pin.layer for pin in recipe.pins))
        made = replace(found, model=model, precise=names, precision=recipe.precision)
    return made


@dataclass(frozen=True)
class _Ranked:
    """The layers of a calibrated model, those first that lose most.

    Attributes:
        model: the model.
        trial: its samples.
        layers: in that order.
        weight_shares: how much of each one's loss its weights make.
    """

    model: Any
    trial: Trial
    layers: tuple[Layer, ...]
    weight_shares: tuple[float, ...]

    @classmethod
    def of(cls, model: Any, trial: Trial) -> _Ranked:
        """Order the layers of a model."""
        rows = sensitivity(
            model, unpacked(trial.judging), method="fast", threshold=100.0, try_recipes=False, progress=trial.request.progress
        ).layers
        by_name = {(layer.name, layer.kind): layer for layer in layers_of(model.plan)}
        rows = tuple(sorted(rows, key=lambda row: -row.estimate))
        return cls(model, trial, tuple(by_name[r.layer, r.kind] for r in rows), tuple(r.weight_share for r in rows))

    def enough(self, goal: float) -> int:
        """Return how many layers have to round nothing for an error of at most a goal, in percent; by bisection."""
        low, high = 0, len(self.layers)
        while low < high:
            middle = (low + high) // 2
            if self._error(middle) <= goal:
                high = middle
            else:
                low = middle + 1
        return low

    def recipe(self, count: int) -> PinnedRecipe | None:
        """Return the recipe in which the first layers are in higher precision; None where nothing would be quantized."""
        plan, setup = self.model.plan, self.trial.opened
        pins = all_pins(plan, self.layers[:count], self.weight_shares[:count])

        def planned(recipe: Recipe) -> Plan:
            return api.plan(setup.model, self.trial.samples[0], recipe, plan.target)

        if count > len(self.layers):
            return None
        try:
            return pinned(plan.recipe, pins, plan.recipe.name, planned)
        except ConfigError:  # all of the model would be float
            return None

    def _error(self, count: int) -> float:
        """Return the error, in percent, where the first layers round nothing and the others do."""
        rounded: dict[str, Rounding] = {}
        for layer in self.layers[count:]:
            rounded |= layer.variant("both")
        adapter, parts = self.trial.opened.adapter, []
        for batch in self.trial.judging:
            parts += [y for _, y in adapter.simulate(self.model, adapter.inputs_of((batch,)), [rounded])]
        return error_percent([np.concatenate(column) for column in zip(*parts, strict=True)], self.trial.real)

"""What a measurement of sensitivity found: a row for each layer, the recipes that were tried, and the one that is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qat.display.page import Block, Displayed, Page, Whole
from qat.display.table import Column, Style, Table
from qat.planning.recipe import Recipe
from qat.trainers.metric import Metric

from .layers import Part
from .pinning import Pin, Precision

#: How many rows a terminal shows.
_SHOWN = 20


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer.

    Attributes:
        layer: its scope, as ``qat plan`` shows it.
        kind: of its operators; ``input`` for an input of the model.
        loss: of the outputs against the float ones with this layer alone quantized: 0 is float, 1 an answer that ignores the
            input. Measured in the exact way, else estimated.
        estimate: the estimated loss; in the exact way, too.
        metric: the metric with this layer alone quantized; None where the fast way did not measure it.
        drop: how much worse that is than float's: in percentage points where the metric is a percentage, else in percent of
            float's value.
        drop_low, drop_high: its 95 % interval; None where it is not known.
        sensitive: whether ``drop`` is above the threshold.
        weight_share: the share of the layer's estimated loss that its weights make, 0 to 1; the rest is its activations'.
    """

    layer: str
    kind: str
    loss: float
    estimate: float
    metric: float | None
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    sensitive: bool
    weight_share: float


@dataclass(frozen=True)
class Trial:
    """A recipe that was tried: prepared, calibrated, exported, run in its runtime on the same data.

    Attributes:
        recipe: the recipe.
        pins: the operators at higher precision; none for the recipe as it was given.
        precision: of the pins.
        added: how many layers that are not sensitive are among those pinned.
        metric: of the artifact.
        drop, drop_low, drop_high: against float, as in :class:`LayerSensitivity`.
        loss: of its outputs against the float ones.
        bytes: the artifact's size; 0 of a target without a runtime.
        enough: whether ``drop`` is within the budget.
        tensors: by the names of the artifact's tensors and weights, their layers; empty of a target without a runtime.
    """

    recipe: Recipe
    pins: tuple[Pin, ...]
    precision: Precision
    added: int
    metric: float
    drop: float
    drop_low: float | None
    drop_high: float | None
    loss: float
    bytes: int
    enough: bool
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Sensitivity(Displayed):
    """The sensitivity of a model's layers.

    Attributes:
        target, recipe: by name.
        method: ``exact`` or ``fast``.
        what: of each layer was quantized: ``weight``, ``activation`` or ``both``.
        threshold: above it a layer is sensitive, see ``drop``.
        budget: what the drop of a whole recipe may be.
        samples: how many were measured on.
        measured: the metric.
        labelled: whether it is held against labels; else against the float model's answers.
        reference: the metric of the float model.
        layers: the sensitive ones by drop, then the others by loss, the worst first.
        trials: the recipes that were tried, the one given first.
        evaluations: of the whole model, that the layers cost.
        seconds: that the layers took.
        rank_correlation: Spearman's, of the estimated losses with the measured ones; None in the fast way.
    """

    target: str
    recipe: str
    method: str
    what: Part
    threshold: float
    budget: float
    samples: int
    measured: Metric
    labelled: bool
    reference: float
    layers: tuple[LayerSensitivity, ...]
    trials: tuple[Trial, ...]
    evaluations: float
    seconds: float
    rank_correlation: float | None

    @property
    def sensitive(self) -> tuple[LayerSensitivity, ...]:
        """The sensitive layers."""
        return tuple(layer for layer in self.layers if layer.sensitive)

    @property
    def chosen(self) -> Trial | None:
        """The first recipe within the budget, else the best one; None where none was tried."""
        enough = (trial for trial in self.trials if trial.enough)
        return next(enough, min(self.trials, key=lambda trial: trial.drop, default=None))

    @property
    def decision(self) -> str:
        """What follows, in one sentence."""
        count, chosen = len(self.sensitive), self.chosen
        found = f"{count} of {len(self.layers)} layers {'is' if count == 1 else 'are'} sensitive"
        if chosen is None:
            return f"{found} (above {self.threshold:g} %)."
        drop = self._drop(chosen.drop)
        goal = f"{'within' if chosen.enough else 'beyond'} the budget of {self.budget:g} %"
        if not chosen.pins:
            spared = len(self.trials) - 1
            less = f"none of the {spared} recipes that spare layers loses less" if spared else "no recipe can spare the layers"
            return f"{found}: the whole recipe '{self.recipe}' loses {drop}, {goal}{'' if chosen.enough else f'; {less}'}."
        what = f"left {'in 16 bits' if chosen.precision == 'int16' else 'float'}"
        named = f"the {count} sensitive" if count else "none"
        more = f" {'and' if count else 'but'} the {chosen.added} next ones" if chosen.added else ""
        short = f"; {named} alone did not reach the budget" if chosen.added and count else ""
        lost = f"the loss falls from {self.trials[0].drop:.2f} to {drop}, measured in the runtime, {goal}"
        return f"{found}: with {named}{more} {what} {lost}{short}."

    def _drop(self, drop: float) -> str:
        unit = "points" if self.measured.unit == " %" else "% of its value"
        return f"{drop:.2f} {unit} of {self.measured.title or self.measured.name}"

    def __repr__(self) -> str:
        return f"Sensitivity({self.recipe}, {self.target}: {len(self.sensitive)} of {len(self.layers)} layers sensitive)"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; docs/json.md has the keys."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        m = self.measured
        metric = {"name": m.name, "unit": m.unit.strip(), "higher_is_better": m.higher_is_better}
        return kept | {
            "measured": metric,
            "layers": [asdict(layer) for layer in self.layers],
            "trials": [_of_trial(trial) for trial in self.trials],
            "chosen": None if self.chosen is None else self.chosen.recipe.name,
            "decision": self.decision,
        }

    def page(self) -> Page:
        """Return the layers, the recipes that were tried, and what follows."""
        held = "" if self.labelled else ", against the float model's answers"
        title = f"{self.recipe} for {self.target}: {self._what()} quantized alone, {self.samples:,} samples{held}"
        shown = self.layers[: max(_SHOWN, len(self.sensitive))]
        left = len(self.layers) - len(shown)
        blocks: list[Block] = [
            Table(_columns(self.measured), tuple(map(self._row, shown)), title, tuple(_style(layer) for layer in shown)),
            *([f"and {left} layers with less loss; --json lists them all"] if left else []),
            *self._chance(),
            f"float: {self.measured.shown(self.reference)}. {self._cost()}",
        ]
        if self.trials:
            blocks += ["", self._trials()]
        return Page((*blocks, "", Whole(self.decision)))

    def _chance(self) -> list[str]:
        count = sum(layer.drop_low is not None and layer.drop_low <= 0 for layer in self.sensitive)
        if not count:
            return []
        return [
            f"{count} of the {len(self.sensitive)} sensitive may be so by chance: the interval holds 0; measure on more samples"
        ]

    def _what(self) -> str:
        return {"both": "each layer", "weight": "each weight", "activation": "each layer's activations"}[self.what]

    def _cost(self) -> str:
        cost = f"{self.method}: {self.evaluations:.1f} evaluations of the model, {self.seconds:.1f} s"
        if self.rank_correlation is not None:
            cost += f"; the fast way orders the layers alike to {self.rank_correlation:.2f} (Spearman)"
        known = sum(layer.metric is not None for layer in self.layers)
        if known < len(self.layers):
            cost += f"; losses are estimates, the metric is measured for {known} of {len(self.layers)} layers"
        return cost

    def _row(self, layer: LayerSensitivity) -> tuple[str, ...]:
        metric = "" if layer.metric is None else self.measured.shown(layer.metric).removesuffix(self.measured.unit)
        flag = "SENSITIVE" if layer.sensitive else ""
        weight = f"{100 * layer.weight_share:.0f} %"
        return layer.layer, layer.kind, metric, _minus(layer.drop), _interval(layer), f"{layer.loss:.2g}", weight, flag

    def _trials(self) -> Table:
        titles = ("pinned", self.measured.heading, "change", "95 % interval", "KiB")
        columns = (Column("recipe"), *(Column(title, right=True) for title in titles))
        rows = tuple(
            (
                trial.recipe.name, f"{len(trial.pins)} {trial.precision}" if trial.pins else "",
                self.measured.shown(trial.metric).removesuffix(self.measured.unit), _minus(trial.drop), _interval(trial),
                f"{trial.bytes / 1024:,.0f}" if trial.bytes else "",
            )
            for trial in self.trials
        )  # fmt: skip
        styles: tuple[Style, ...] = tuple("good" if trial is self.chosen else "" for trial in self.trials)
        return Table(columns, rows, "measured in the runtime", styles)


def _columns(measured: Metric) -> tuple[Column, ...]:
    figures = (measured.heading, "change", "95 % interval", "loss", "of weights")
    return (Column("layer"), Column("operator"), *(Column(title, right=True) for title in figures), Column(""))


def _style(layer: LayerSensitivity) -> Style:
    return "bad" if layer.sensitive else ""


def _minus(drop: float | None) -> str:
    """Return a change as tables show it: below zero is worse."""
    return "" if drop is None else f"{-drop + 0.0:+.2f}"


def _interval(row: LayerSensitivity | Trial) -> str:
    return "" if row.drop_low is None or row.drop_high is None else f"{-row.drop_high + 0.0:+.2f} to {-row.drop_low + 0.0:+.2f}"


def _of_trial(trial: Trial) -> Mapping[str, Any]:
    values = asdict(trial) | {"recipe": trial.recipe.model_dump(), "pins": [asdict(pin) for pin in trial.pins]}
    del values["tensors"]  # a file of their own, for Model Explorer
    return values

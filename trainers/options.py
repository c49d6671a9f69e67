"""The options of a fine-tuning run, the same in both frameworks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from qat.errors import ConfigError, OptionError, nearest
from qat.typing import Gradients, Model

from . import schedules
from .epoch import Epoch
from .metric import Metric
from .metrics import DISTANCE, METRICS, MetricSpec, chosen, metric
from .output_losses import LOSS_NAMES, LossName, check_name
from .time_budget import seconds_of

Optimizer: TypeAlias = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
Schedule: TypeAlias = Literal["cosine", "linear", "constant"]
Precision: TypeAlias = Literal["float32", "bf16"]
Labels: TypeAlias = Literal["given", "none"]
#: A loss ``(outputs, labels) -> scalar``, on the framework's tensors.
LossFunction: TypeAlias = Callable[[Any, Any], Any]

#: Optimizers' usual learning rates; QAT takes a hundredth (Krishnamoorthi 2018; Wu et al. 2020, section 6).
USUAL_LEARNING_RATE = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "adagrad": 1e-2}

#: Losses by name; each framework has its own functions for them.
LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber", "detection")

#: What a detector is measured by where no metric is named: of its raw outputs, as the loss takes them.
_OF_DETECTOR: tuple[MetricSpec, ...] = ({"name": "map", "decode": "grid"}, {"name": "map50", "decode": "grid"})

#: The valid words of the options that are one.
_WORDS: dict[str, tuple[str, ...]] = {
    "optimizer": tuple(USUAL_LEARNING_RATE),
    "schedule": tuple(schedules.SCHEDULES),
    "precision": ("float32", "bf16"),
    "gradients": ("float32", "bf16", "auto"),
    "labels": ("given", "none"),
}

#: What is taken where the user names nothing: with labels, and without.
_OPTIMIZER: dict[bool, Optimizer] = {True: "sgd", False: "adam"}
_OBSERVED = {True: 0.1, False: 0.0}


@dataclass(frozen=True)
class _Limits:
    """The numbers that an option may be: from ``least`` to ``most``, whole ones alone or any, or None too."""

    least: float = 0
    most: float = math.inf
    whole: bool = False
    optional: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise OptionError unless the value is within the limits."""
        if value is None and self.optional:
            return
        number = value if isinstance(value, int) or (isinstance(value, float) and not self.whole) else math.nan
        if isinstance(value, bool) or not self.least <= number <= self.most:
            kind = "a whole number" if self.whole else "a number"
            limits = f"of at least {self.least:g}" if self.most == math.inf else f"between {self.least:g} and {self.most:g}"
            raise OptionError(name, f"{name} must be {kind} {limits}, not {value!r}")


_COUNT, _OPTIONAL_COUNT = _Limits(1, whole=True), _Limits(1, whole=True, optional=True)
_NUMBERS: dict[str, _Limits] = {
    "epochs": _COUNT,
    "max_steps": _OPTIONAL_COUNT,
    "steps": _OPTIONAL_COUNT,
    "seed": _Limits(0, 2**32 - 1, whole=True),
    "learning_rate": _Limits(1e-12, optional=True),
    "gradient_clip": _Limits(1e-12, optional=True),
    "weight_decay": _Limits(),
    "warmup_steps": _Limits(whole=True),
    "accumulate": _COUNT,
    "patience": _OPTIONAL_COUNT,
    "observe_fraction": _Limits(0, 1, optional=True),
    "temperature": _Limits(1e-3),
    "teacher_weight": _Limits(0, 1),
    "dampening": _Limits(),
    "freezing": _Limits(1e-6, 1, optional=True),
    "divergence": _Limits(optional=True),
    "checkpoint_every": _OPTIONAL_COUNT,
    "artifact_every": _OPTIONAL_COUNT,
}


def _listed(metrics: Iterable[MetricSpec]) -> tuple[MetricSpec, ...]:
    """Return a list of metrics; those by name are looked up now, functions by their module's name when they are needed.

    Raises:
        OptionError: it is no list, or there is no metric of a name.
    """
    listed = () if isinstance(metrics, (str, Mapping)) else tuple(metrics)
    if not listed:
        raise OptionError("metrics", f"metrics is a list of one or more names or functions, not {metrics!r}")
    try:
        for spec in listed:
            name = spec.get("name") if isinstance(spec, Mapping) else spec
            if not (isinstance(name, str) and ":" in name):
                metric(spec)
    except ConfigError as error:
        raise OptionError("metrics", str(error)) from error
    return listed


#: Options that do not decide the weights that come out, so that a resumed run may change them.
_FREE = ("progress", "checkpoint_dir", "checkpoint_every", "resume", "tensorboard", "artifact_every", "divergence", "on_epoch")


class EvaluationKeywords(TypedDict, total=False):
    """The keywords of :func:`qat.evaluate`; :class:`TrainingOptions` says what each does and what it is by default."""

    metrics: Iterable[MetricSpec] | None
    labels: Labels | None
    teacher: Model | None
    progress: bool


class TrainingKeywords(EvaluationKeywords, total=False):
    """The keywords of :func:`qat.finetune`: the fields of :class:`TrainingOptions`, for editors and type checkers."""

    epochs: int
    max_steps: int | None
    steps: int | None
    time_budget: str | float | None
    learning_rate: float | None
    optimizer: Optimizer | None
    schedule: Schedule
    warmup_steps: int
    weight_decay: float
    gradient_clip: float | None
    accumulate: int
    precision: Precision
    gradients: Gradients
    patience: int | None
    observe_fraction: float | None
    seed: int
    loss: str | LossFunction | Mapping[str, LossName] | None
    temperature: float
    teacher_weight: float
    dampening: float
    freezing: float | None
    divergence: float | None
    checkpoint_dir: str | Path | None
    checkpoint_every: int | None
    resume: bool
    tensorboard: str | Path | None
    artifact_every: int | None
    on_epoch: Callable[[Epoch], object] | None


@dataclass(frozen=True)
class TrainingOptions:
    """Options of :func:`qat.finetune`. docs/training.md says which to reach for when.

    Attributes:
        epochs: passes over the data.
        max_steps: an upper limit on the steps (batches); None for none.
        steps: in place of ``epochs``: the steps, over as many passes as they take; None for none.
        time_budget: in place of both: ``10m``, ``90s``, ``1h`` or seconds, in which the steps must fit; see
            :mod:`qat.trainers.time_budget`. None for none.
        learning_rate: the peak; None takes a hundredth of the optimizer's usual one (SGD: 0.001), or, without labels, tries a
            few; see :mod:`qat.trainers.rate_trial`.
        optimizer: ``sgd`` (momentum 0.9, Nesterov), ``adam``, ``adamw``, ``rmsprop`` or ``adagrad``; None is SGD, without labels
            Adam.
        schedule: ``cosine`` or ``linear`` (both down to a hundredth of the peak), or ``constant``.
        warmup_steps: steps in which the rate first rises in a straight line to the peak.
        weight_decay: of every trainable parameter; the activation ranges are none.
        gradient_clip: limit on the gradients' global norm; None for none.
        accumulate: batches whose gradients are averaged for one update of the weights.
        precision: ``bf16`` computes what stays float in bfloat16 (PyTorch's autocast); the grid's nodes stay exact in float32.
        gradients: in what the products of the integer nodes' gradients are computed: ``float32``; ``bf16``, bfloat16 with sums in
            float32; ``auto``: whichever is faster for a shape. The outputs are the same. Keras computes in float32.
        patience: epochs without a better first metric after which training stops; None for no such stop.
        observe_fraction: the share of the steps in which activation ranges follow the data before they are frozen; None is a
            tenth, without labels none: the calibrated ranges stay.
        seed: of every random generator used.
        loss: a name (``cross_entropy``, ``binary_cross_entropy``, ``mse``, ``mae``, ``huber``; ``detection``: of boxes, see
            docs/detection.md), ``package.module:function``, or a callable ``(outputs, labels) -> scalar``; None is cross-entropy,
            on logits or probabilities. Without labels None chooses ``kl``, ``bernoulli_kl``, ``mse`` or ``cosine`` for each
            output by its values (:mod:`qat.trainers.output_losses`); one of these is that for all outputs, ``{"boxes": "mse"}``
            for some.
        metrics: names (:data:`qat.trainers.metrics.METRICS`), ``package.module:function``, callables
            ``(outputs, labels) -> values`` on arrays, one value a sample or one for the batch, or mappings of one of them with
            its options: see :func:`qat.trainers.metrics.metric`. The first one chooses the best epoch. None chooses by the
            labels: top-1 for class numbers, right pixels and mean IoU for maps of them, MSE and MAE for numbers of the outputs'
            shape; mAP for the loss ``detection``. Where no metric fits, there is none, and the last epoch is the best. Metrics
            ``to float`` wait for the comparison, unless ``labels`` is ``none``. Without labels the first is by default
            ``distance``, the loss on the evaluation data.
        teacher: a float model; the model learns its outputs, besides the labels. None for none.
        temperature: that divides the logits of the teacher and of the model before their softmax.
        teacher_weight: the share of the teacher's loss in the loss, 0 to 1.
        dampening: the factor, at the last step, of the squared distance between the weights of fewer than 8 bits and their grid.
        freezing: in what share of the steps a weight of fewer than 8 bits may flip back and forth before it is frozen, 0.02 say;
            None freezes none.
        divergence: the share of the way from the loss at the start to that of outputs of zero, at which the run is stopped; see
            :mod:`qat.trainers.divergence`. None never stops it.
        labels: ``given``, or ``none``: the teacher's outputs are learned alone, and the teacher is by default the prepared model
            itself in float. None looks at the first batch: one that is no pair has no labels.
        checkpoint_dir: where checkpoints are written, and the weights of the best and the last epoch; None for nowhere. The
            files of an earlier run that lie there are moved to ``<checkpoint_dir>.1`` and so on, unless ``resume`` continues it.
        checkpoint_every: steps between checkpoints, besides the one after each epoch; None for none besides.
        resume: whether to continue from the last whole checkpoint in ``checkpoint_dir``, where there is one: with the same model
            and options, and as many epochs or more.
        tensorboard: a folder for TensorBoard's logs; None for none.
        artifact_every: epochs between evaluations of the exported artifact in its runtime; None for none.
        on_epoch: called after each epoch with its :class:`qat.trainers.Epoch`; None for nothing.
        progress: whether to show how far the training is, and how long it will take: a bar on a terminal, in a pipe a line now
            and then.
    """

    epochs: int = 1
    max_steps: int | None = None
    steps: int | None = None
    time_budget: str | float | None = None
    learning_rate: float | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    accumulate: int = 1
    precision: Precision = "float32"
    gradients: Gradients = "float32"
    patience: int | None = None
    observe_fraction: float | None = None
    seed: int = 0
    loss: str | LossFunction | Mapping[str, LossName] | None = None
    metrics: Iterable[MetricSpec] | None = None
    teacher: Model | None = None
    temperature: float = 1.0
    teacher_weight: float = 0.5
    dampening: float = 0.0
    freezing: float | None = None
    divergence: float | None = 0.9
    labels: Labels | None = None
    checkpoint_dir: str | Path | None = None
    checkpoint_every: int | None = None
    resume: bool = False
    tensorboard: str | Path | None = None
    artifact_every: int | None = None
    on_epoch: Callable[[Epoch], object] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            word: object = getattr(self, name)
            if word not in words and not (word is None and name in ("optimizer", "labels")):
                raise OptionError(name, f"unknown {name} '{word}'{nearest(str(word), words)}; valid: {', '.join(words)}")
        for name, limits in _NUMBERS.items():
            limits.check(name, getattr(self, name))
        if self.steps is not None and self.time_budget is not None:
            raise OptionError("time_budget", "steps and time_budget both end the training: give one of them")
        if self.time_budget is not None:
            seconds_of(self.time_budget)
        self._check_loss()
        if self.metrics is None and self.detects:
            object.__setattr__(self, "metrics", _OF_DETECTOR)
        if self.metrics is not None:
            object.__setattr__(self, "metrics", _listed(self.metrics))
        if self.resume and self.checkpoint_dir is None:
            raise OptionError("resume", "resume needs checkpoint_dir, the folder that holds the run's checkpoints")

    def _check_loss(self) -> None:
        if isinstance(self.loss, Mapping):
            for name in self.loss.values():
                check_name(str(name))
        own = (*LOSSES, *(name for name in LOSS_NAMES if name not in LOSSES))
        if isinstance(self.loss, str) and self.loss not in own and ":" not in self.loss:
            valid = f"{', '.join(own)}, or package.module:function"
            raise OptionError("loss", f"unknown loss '{self.loss}'{nearest(self.loss, own)}; valid: {valid}")
        if self.detects and (self.teacher is not None or self.labels == "none"):
            raise OptionError(
                "loss", "loss 'detection' is against boxes, not a teacher's outputs: leave the teacher or the loss out"
            )

    @classmethod
    def of(cls, **options: Any) -> TrainingOptions:
        """Return options from keywords. Raises OptionError naming the nearest valid one for an unknown keyword."""
        valid = [f.name for f in fields(cls)]
        for name in options:
            if name not in valid:
                raise OptionError(name, f"unknown training option '{name}'{nearest(name, valid)}; valid: {', '.join(valid)}")
        return cls(**options)

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return float(self.learning_rate) if self.learning_rate is not None else self.usual_rate / 100

    @property
    def usual_rate(self) -> float:
        """The optimizer's usual learning rate, for training from scratch."""
        return USUAL_LEARNING_RATE[self.chosen_optimizer]

    @property
    def labelled(self) -> bool:
        """Whether the batches have labels."""
        return self.labels != "none"

    @property
    def by_output(self) -> bool:
        """Whether each output has a loss of its own against the teacher: without labels, where no loss of batches is named."""
        return not self.labelled and (self.loss in (None, "mse") or self.loss_of_teacher)

    @property
    def loss_of_teacher(self) -> bool:
        """Whether the loss is one that only training without labels has."""
        return isinstance(self.loss, Mapping) or self.loss in ("kl", "bernoulli_kl", "cosine")

    @property
    def batch_loss(self) -> str | LossFunction:
        """The loss of a batch as a whole, by name or as a function; cross-entropy where each output has its own."""
        return "cross_entropy" if self.by_output or self.loss is None or isinstance(self.loss, Mapping) else self.loss

    @property
    def tries_rates(self) -> bool:
        """Whether the learning rate is the best of a few that are tried."""
        return self.by_output and self.learning_rate is None

    @property
    def chosen_optimizer(self) -> Optimizer:
        """The optimizer."""
        return self.optimizer or _OPTIMIZER[self.labelled]

    @property
    def observed(self) -> float:
        """The share of the steps in which activation ranges follow the data."""
        return _OBSERVED[self.labelled] if self.observe_fraction is None else self.observe_fraction

    def rate(self, step: int, total: int, peak: float | None = None) -> float:
        """Return the learning rate of a step; ``peak`` takes the place of the options' own."""
        return schedules.rate(self.schedule, self.peak if peak is None else peak, step, total, self.warmup_steps)

    def dampened(self, step: int, total: int) -> float:
        """Return the factor of the weights' distance from their grid: half a cosine from 0 (Nagel et al. 2022, section 4.1)."""
        return self.dampening * (1 - math.cos(math.pi * step / max(total - 1, 1))) / 2

    def combined_loss(self, against_labels: Callable[[], Any], distance: Any) -> Any:
        """Return the loss of a batch: that against its labels, the ``distance`` to a teacher (None without one), or their sum."""
        if distance is None:
            return against_labels()
        if not self.labelled:
            return distance
        return (1 - self.teacher_weight) * against_labels() + self.teacher_weight * distance

    @property
    def classifies(self) -> bool:
        """Whether the loss is cross-entropy, on class numbers."""
        return self.loss == "cross_entropy" or (self.loss is None and not self.by_output)

    @property
    def chosen_metrics(self) -> tuple[Metric, ...] | None:
        """The metrics, the one that chooses the best epoch first; None where they follow from the labels."""
        if self.metrics is None:
            # A classifier that learns from its teacher alone is measured by their agreement.
            return (METRICS["top1"],) if not self.labelled and self.loss in (None, "cross_entropy") else None
        found = chosen(self.metrics)
        return found if not self.labelled else tuple(m for m in found if not m.to_float) or None

    @property
    def detects(self) -> bool:
        """Whether the loss is that of a detector, on boxes."""
        return self.loss == "detection"

    def higher_is_better(self, name: str) -> bool:
        """Whether more of a metric is better, by its name in the history."""
        known = METRICS | {m.name: m for m in self.chosen_metrics or ()}
        return name != DISTANCE and known[name].higher_is_better

    def decisive(self) -> dict[str, Any]:
        """Return, JSON-ready, the options that decide the weights that come out."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _FREE}
        values |= {"labels": self.labels or "given", "optimizer": self.chosen_optimizer, "observe_fraction": self.observed}
        values["metrics"] = [m.name for m in self.chosen_metrics or ()]
        values["teacher"] = self.teacher is not None
        if isinstance(self.loss, Mapping):
            values["loss"] = dict(self.loss)
        elif callable(self.loss):
            values["loss"] = getattr(self.loss, "__name__", "own")
        return values

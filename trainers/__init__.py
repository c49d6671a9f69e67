"""Fine-tuning loops: the same options and the same defaults for PyTorch and Keras."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Unpack

from qat.calibration.float_twin import float_twin
from qat.display.progress import shown
from qat.errors import CalibrationError, OptionError
from qat.frameworks import framework_of, has_plan, input_count
from qat.system.sample_sets import as_batches
from qat.typing import Batches, Model, P

from .data_checks import training_batches
from .divergence import TrainingDiverged
from .epoch import Epoch
from .history import History
from .interrupt import TrainingInterrupted
from .options import EvaluationKeywords, TrainingKeywords, TrainingOptions
from .unlabelled import held_out, lacks_labels

__all__ = [
    "Epoch",
    "History",
    "TrainingDiverged",
    "TrainingInterrupted",
    "TrainingOptions",
    "evaluate",
    "finetune",
    "load_weights",
]


def finetune(model: Model, train_data: Batches, eval_data: Batches | None = None, **options: Unpack[TrainingKeywords]) -> History:
    """Fine-tune a prepared (or float) model in place, and return the history of the run.

    The model ends with the weights of its best epoch by the evaluation metric; without evaluation data, with those of the last.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`, or a float model (the control).
        train_data: batches of ``(inputs, labels)``, iterated once an epoch: a DataLoader, a ``tf.data.Dataset``, a list. Or a
            data set of single samples, of PyTorch, Hugging Face or WebDataset: shuffled by ``seed`` and stacked, 32 a batch. Data
            of unknown length need ``max_steps``. Batches of inputs alone, or one array of inputs, have no labels: the model then
            learns the outputs that it has itself in float, see docs/training.md.
        eval_data: the same for validation, after each epoch; None for none. Without labels a tenth of the inputs is held out.
        options: the fields of :class:`qat.trainers.TrainingOptions`, which says what each does and what it is by default: one
            epoch of SGD at a learning rate of 0.001 with cross-entropy.

    Raises:
        CalibrationError: a prepared model was not calibrated.
        ConfigError: an option is unknown or out of its range; the message names the nearest valid one.
        DataError: no batches, labels that do not fit, or NaN in the data; the message names the batch.
        TrainingDiverged: the loss is NaN or infinite, or has risen to that of a model that knows nothing.
        TrainingInterrupted: by Ctrl-C or SIGTERM; the message says how to continue.

    Examples:
        >>> import numpy as np, qat, torch
        >>> _ = torch.manual_seed(0)
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> data = [(x, x.argmax(1) % 3)]
        >>> history = qat.finetune(model, data, data, epochs=2, optimizer="adam", progress=False)
        >>> [epoch.number for epoch in history.epochs]
        [1, 2]
        >>> qat.finetune(model, x, steps=20, progress=False).losses  # no labels: the float model is the teacher
        {'output': 'kl'}
    """
    chosen = TrainingOptions.of(**options)
    if has_plan(model) and not all(grid.calibrated for grid in model.grids.values()):
        raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before qat.finetune")
    return _trainer(model).finetune(model, *_completed(model, train_data, eval_data, chosen))


def _completed(
    model: Model, train_data: Batches, eval_data: Batches | None, options: TrainingOptions
) -> tuple[Batches, Batches | None, TrainingOptions]:
    """Return the data and the options of a run; without labels with a teacher, and inputs that are held out."""
    if options.labels is None:
        lacks = (has_plan(model) or options.teacher is not None) and lacks_labels(train_data, input_count(model))
        options = replace(options, labels="none" if lacks else "given")
    train_data = training_batches(train_data, options)
    eval_data = None if eval_data is None else as_batches(eval_data, "the evaluation data")
    if options.labelled:
        if options.loss_of_teacher:
            raise OptionError("loss", f"loss {options.loss!r} is against a teacher, for data without labels: labels='none'")
        return train_data, eval_data, options
    if options.teacher is None:
        if not has_plan(model):
            raise OptionError("labels", "labels='none' trains on a teacher's outputs: give teacher=, the float model")
        options = replace(options, teacher=float_twin(model))
    if eval_data is None:
        train_data, eval_data = held_out(train_data, options.seed)
    return train_data, eval_data, options


def evaluate(model: Model, data: Batches, **options: Unpack[EvaluationKeywords]) -> dict[str, float]:
    """Return the metrics of a prepared or a float model, as :func:`finetune` would measure them. The model is not changed.

    Args:
        model: computes with the weights and ranges that it has now.
        data: batches of ``(inputs, labels)``.
        options: of :class:`qat.trainers.TrainingOptions`: ``metrics`` (by default chosen by the labels), and with
            ``labels="none"`` the ``teacher`` whose outputs take the labels' place; ``progress``.

    Returns:
        Each metric over the samples, by name; empty where none was named and none fits the labels.

    Raises:
        ConfigError: an option is unknown, or there is no such metric.
        DataError: no batches, or outputs and labels that do not fit a metric.

    Examples:
        >>> import numpy as np, qat, torch
        >>> net = torch.nn.Identity()
        >>> qat.evaluate(net, [(np.eye(3, dtype=np.float32), np.array([0, 1, 1]))], metrics=["top1"])
        {'top1': 66.66666666666667}
    """
    chosen = TrainingOptions.of(**options)
    with shown(chosen.progress):
        return _trainer(model).evaluate(model, as_batches(data, "the evaluation data"), chosen)


class _Trainer(Protocol):
    """The functions that the trainer of each framework has."""

    def finetune(self, model: Any, train_data: Batches, eval_data: Batches | None, options: TrainingOptions) -> History: ...

    def evaluate(self, model: Any, data: Batches, options: TrainingOptions) -> dict[str, float]: ...

    def load_weights(self, model: Any, path: Path) -> Any: ...


def _trainer(model: Model) -> _Trainer:
    if framework_of(model) == "torch":
        from . import torch as for_torch

        return for_torch
    from . import keras as for_keras

    return for_keras


def load_weights(model: P, path: Path) -> P:
    """Load a checkpoint (``.safetensors``; of a Keras model ``.keras``) and return the model that holds it.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    loaded: P = _trainer(model).load_weights(model, path)
    return loaded

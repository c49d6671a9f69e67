"""Fine-tuning loops: the same options and the same defaults for PyTorch and Keras."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qat.errors import CalibrationError
from qat.frameworks import framework_of, is_prepared

from .divergence import TrainingDiverged
from .history import Epoch, History
from .interrupt import TrainingInterrupted
from .options import TrainingOptions

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


def finetune(model: Any, train_data: Iterable[Any], eval_data: Iterable[Any] | None = None, **options: Any) -> History:
    """Fine-tune a prepared (or float) model; return its history.

    The best weights by the evaluation metric are left in the model. Options are the fields of
    :class:`TrainingOptions`, which says what each does and what it is by default.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`, or a float model (the control).
        train_data: batches of ``(inputs, labels)``; iterated once an epoch.
        eval_data: the same for validation, after each epoch.

    Raises:
        CalibrationError: a prepared model was not calibrated.
        DataError: no batches, or NaN in the data; the message names the batch.
    """
    chosen = TrainingOptions.of(**options)
    if is_prepared(model) and hasattr(model, "grids"):
        missing = [name for name, grid in model.grids.items() if not grid.calibrated]
        if missing:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before qat.finetune")
    history: History = _trainer(model).finetune(model, train_data, eval_data, chosen)
    return history


def evaluate(model: Any, data: Iterable[Any], **options: Any) -> dict[str, float]:
    """Return a prepared or a float model's metrics on ``(inputs, labels)`` batches, as :func:`finetune` would measure them.

    Args:
        model: it is left as it is; a prepared one as its ranges are now.
        data: the batches.
        options: of :class:`TrainingOptions`: ``metrics``, and with ``labels="none"`` the ``teacher`` that it is measured against.
    """
    found: dict[str, float] = _trainer(model).evaluate(model, data, TrainingOptions.of(**options))
    return found


def _trainer(model: Any) -> Any:
    if framework_of(model) == "torch":
        from . import torch as for_torch

        return for_torch
    from . import keras as for_keras

    return for_keras


def load_weights(model: Any, path: Path) -> Any:
    """Load a checkpoint (``.safetensors``; of a Keras model ``.keras``) and return the model that holds it.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    return _trainer(model).load_weights(model, path)

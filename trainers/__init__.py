"""Fine-tuning loops: the same options and the same defaults for PyTorch and Keras."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qat.adapters import framework_of, is_prepared
from qat.errors import CalibrationError
from qat.trainers.divergence import TrainingDiverged
from qat.trainers.history import Epoch, History
from qat.trainers.interrupt import TrainingInterrupted
from qat.trainers.options import TrainingOptions

__all__ = ["Epoch", "History", "TrainingDiverged", "TrainingInterrupted", "TrainingOptions", "finetune", "load_weights"]


def finetune(model: Any, train_data: Iterable[Any], eval_data: Iterable[Any] | None = None, **options: Any) -> History:
    """Fine-tune a prepared or a float model; see :func:`qat.finetune`."""
    chosen = TrainingOptions.of(**options)
    framework = framework_of(model)
    if is_prepared(model) and hasattr(model, "grids"):
        missing = [name for name, grid in model.grids.items() if not grid.calibrated]
        if missing:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before qat.finetune")
    if framework == "torch":
        from qat.trainers import torch as trainer
    else:
        from qat.trainers import keras as trainer
    history: History = trainer.finetune(model, train_data, eval_data, chosen)
    return history


def load_weights(model: Any, path: Path) -> Any:
    """Load a checkpoint (``.safetensors``; of a Keras model ``.keras``) and return the model that holds it.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    if framework_of(model) == "torch":
        from qat.trainers.torch import load_weights as load
    else:
        from qat.trainers.keras import load_weights as load
    return load(model, path)

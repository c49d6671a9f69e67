"""Weights as arrays and as ``.keras`` files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import DataError, reason_of
from qat.frameworks import framework_of, is_prepared
from qat.system.atomic_files import replace_with


def variables_of(model: Any) -> list[Any]:
    """Return all variables that the next step depends on: weights, ranges, and the seeds of dropout and its like."""
    weights = list(model.weights)
    known = {id(v) for v in weights}
    metrics = {id(v) for m in getattr(model, "metrics", ()) for v in m.variables}
    return weights + [v for v in model.variables if id(v) not in known | metrics and "seed" in v.name]


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """Return a copy of a model's variables, by number and name."""
    return {f"{index:05d}/{v.name}": np.array(v) for index, v in enumerate(variables_of(model))}


def put(model: Any, arrays: dict[str, np.ndarray]) -> None:
    """Put a model's variables back.

    Raises:
        DataError: they are those of another model.
    """
    variables, ordered = variables_of(model), [arrays[name] for name in sorted(arrays)]
    if [tuple(v.shape) for v in variables] != [a.shape for a in ordered]:
        raise DataError("the checkpoint is of another model: its variables have other shapes")
    for variable, array in zip(variables, ordered, strict=True):
        variable.assign(array)
    for grid in getattr(model, "grid_layers", ()):
        grid.forget()


def save_weights(model: Any, folder: Path, name: str) -> Path:
    """Write ``name.keras``, of a ``tf_keras`` model ``name.weights.h5``; returns the path."""
    if framework_of(model) == "keras":
        return replace_with(folder / f"{name}.keras", model.save)
    return replace_with(folder / f"{name}.weights.h5", model.save_weights)


def load_weights(model: Any, path: Path) -> Any:
    """Return the prepared model of a ``.keras`` checkpoint.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    if not path.is_file():
        raise DataError(f"no such checkpoint: {path}")
    if framework_of(model) == "tf_keras":
        return _load_tf_keras(model, path)
    import keras

    if path.suffix != ".keras":
        raise DataError(f"{path} is no .keras file, which a Keras model's checkpoint is: give best.keras or last.keras")
    try:
        loaded = keras.models.load_model(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a whole .keras file: use the checkpoint before it") from error
    if [v.shape for v in loaded.weights] != [v.shape for v in model.weights]:
        raise DataError(f"{path} holds the weights of another model")
    return loaded


def _load_tf_keras(model: Any, path: Path) -> Any:
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{path} does not hold this model's weights: {reason_of(error)}") from error
    model.qat_calibrated = is_prepared(model)  # the ranges are among the weights
    return model

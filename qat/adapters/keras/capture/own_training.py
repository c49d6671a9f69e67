"""Training of a model's own: methods that a prepared model, which has no class of the user's, would lose."""

from __future__ import annotations

import logging
from typing import Any

from qat.errors import CaptureError

log = logging.getLogger("qat")

#: The methods of training and evaluation that a user's class, or one model, may override.
_METHODS = ("fit", "evaluate", "make_train_function", "train_step", "test_step", "compute_loss", "compute_metrics")

#: Methods that, in this library's tasks, only preprocess the data.
_DATA_ALONE, _TASKS = ("fit", "evaluate"), "keras_hub"


def own_training(model: Any) -> tuple[str, ...]:
    """Return the methods that the user gave a model: ``MyModel.train_step``, of one model alone ``model.train_step.__func__``."""
    methods = {name: getattr(type(model), name, None) for name in _METHODS}
    of_class = (f"{type(model).__name__}.{n}" for n, m in methods.items() if not (_is_keras(m) or _preprocesses(n, m)))
    return (*of_class, *(f"model.{name}.__func__" for name in _METHODS if name in vars(model)))


def refuse_own_training(methods: tuple[str, ...], package: str) -> None:
    """Raise CaptureError if there are any; the message has the lines that keep them. ``package``: ``keras`` or ``tf_keras``."""
    if not methods:
        return
    name = methods[0].removesuffix(".__func__").rpartition(".")[2]
    lost = ", ".join(method.removesuffix(".__func__") for method in methods)
    raise CaptureError(
        f"the prepared model has no class of its own, and would lose {lost}: prepare {package}.Model(model.inputs, "
        f"model.outputs), and give the result the method: prepared.{name} = types.MethodType({methods[0]}, prepared); in it call "
        f"{package}.Model.{name}(self, ...) in place of super().{name}(...)"
    )


def tell_of_preprocessing(model: Any) -> None:
    """Log that a task's own preprocessing is no part of the prepared model."""
    if getattr(model, "preprocessor", None) is not None and _preprocesses("fit", getattr(type(model), "fit", None)):
        log.warning("'%s' preprocesses the data of fit: give the prepared model what model.preprocessor returns", model.name)


def _preprocesses(name: str, method: object) -> bool:
    return name in _DATA_ALONE and _package(method) == _TASKS


def _package(method: object) -> str:
    return str(getattr(method, "__module__", "")).partition(".")[0]


def _is_keras(method: object) -> bool:
    return method is None or _package(method) in ("keras", "tf_keras")

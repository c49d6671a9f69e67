"""Optimizers by name, and their state as arrays. ``keras`` is the module that the model comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qat.trainers.options import TrainingOptions

_MAKERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda keras, rate, **kw: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **kw),
    "adam": lambda keras, rate, **kw: keras.optimizers.Adam(rate, **kw),
    "adamw": lambda keras, rate, **kw: keras.optimizers.AdamW(rate, **kw),
    "rmsprop": lambda keras, rate, **kw: keras.optimizers.RMSprop(rate, rho=0.9, momentum=0.9, **kw),
    "adagrad": lambda keras, rate, **kw: keras.optimizers.Adagrad(rate, **kw),
}


def optimizer(keras: Any, variables: list[Any], options: TrainingOptions) -> Any:
    """Return the optimizer that the options name, its variables made."""
    extra: dict[str, Any] = {"weight_decay": options.weight_decay or None}
    if options.gradient_clip is not None:
        extra["global_clipnorm"] = options.gradient_clip
    made = _MAKERS[options.optimizer](keras, options.peak, **extra)
    made.build(variables)
    return made


def state(made: Any) -> dict[str, np.ndarray]:
    """Return the state by the variables' numbers."""
    return {str(index): np.array(variable) for index, variable in enumerate(made.variables)}


def restore(made: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Put back what :func:`state` returned."""
    for index, variable in enumerate(made.variables):
        variable.assign(arrays[str(index)])

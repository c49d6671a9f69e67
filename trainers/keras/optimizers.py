"""Optimizers by name, and their state as arrays. ``keras`` is the module that the model comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qat.trainers.options import TrainingOptions

_MAKERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda keras, rate, **kw: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **kw),
    "adam": lambda keras, rate, **kw: keras.optimizers.Adam(rate, **kw),
    "adamw": lambda keras, rate, weight_decay, **kw: keras.optimizers.AdamW(rate, weight_decay=weight_decay or 0.0, **kw),
    "rmsprop": lambda keras, rate, **kw: keras.optimizers.RMSprop(rate, rho=0.9, momentum=0.9, **kw),
    "adagrad": lambda keras, rate, **kw: keras.optimizers.Adagrad(rate, **kw),
}


#: The method that sums gradients over replicas, which the learner has done by then: it clips the norm of the whole gradient,
#: where Keras 3 would clip each replica's own.
_SUMMING = {"keras": "_all_reduce_sum_gradients", "tf_keras": "aggregate_gradients"}


def optimizer(keras: Any, variables: list[Any], options: TrainingOptions, replicas: int = 1) -> Any:
    """Return the optimizer that the options name, its variables made; of several replicas it takes summed gradients."""
    extra: dict[str, Any] = {"weight_decay": options.weight_decay or None}
    if options.gradient_clip is not None:
        extra["global_clipnorm"] = options.gradient_clip
    made = _MAKERS[options.chosen_optimizer](keras, options.peak, **extra)
    scales = [v for v in variables if _is_scale(v)]
    if scales and options.weight_decay:
        made.exclude_from_weight_decay(var_list=scales)
    made.build(variables)
    if replicas > 1:
        getattr(made, _SUMMING[keras.__name__])  # an AttributeError here is better than gradients that count twice
        setattr(made, _SUMMING[keras.__name__], lambda pairs: pairs)
    return made


def _is_scale(variable: Any) -> bool:
    """Whether a variable is a learned scale, which does not decay."""
    *scopes, name = getattr(variable, "path", "").split("/")  # tf_keras has neither paths nor such scales
    return name.startswith("weight_step_") or (name == "range" and scopes[-1:] != [] and scopes[-1].startswith("grid_"))


def state(made: Any) -> dict[str, np.ndarray]:
    """Return the state by the variables' numbers."""
    return {str(index): np.array(variable) for index, variable in enumerate(made.variables)}


def restore(made: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Put back the state that :func:`state` returned."""
    for index, variable in enumerate(made.variables):
        variable.assign(arrays[str(index)])

"""Calibration: the initial activation ranges from a few hundred samples, in one pass that keeps none of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from qat.arithmetic.range_estimators import RangeMode, make_estimator
from qat.errors import CalibrationError, ConfigError, DataError, nearest
from qat.frameworks import adapter_for, framework_of, is_prepared
from qat.system.samples import batches_of, check_finite, first_of_pair

_ESTIMATORS = ("minmax", "ema", "percentile", "mse")


def calibrate(model: Any, samples: Iterable[Any], estimator: str | None = None) -> Any:
    """Set the activation ranges of a prepared model from samples; calling it again starts afresh.

    Args:
        model: from :func:`qat.prepare`.
        samples: batches of inputs, or ``(inputs, labels)`` pairs: a DataLoader, a tf.data pipeline, a list of arrays.
        estimator: ``minmax``, ``ema``, ``percentile`` or ``mse``; None takes the recipe's.

    Returns:
        The model itself.

    Raises:
        CalibrationError: the model is not a prepared one.
        DataError: no samples, or a sample with NaN or infinite values.
    """
    if not is_prepared(model):
        raise CalibrationError("calibrate needs a prepared model: call model = qat.prepare(float_model, example_inputs) first")
    if estimator is not None and estimator not in _ESTIMATORS:
        raise ConfigError(f"unknown estimator '{estimator}'{nearest(estimator, _ESTIMATORS)}; valid: {', '.join(_ESTIMATORS)}")
    adapter = adapter_for(framework_of(model))
    if framework_of(model) == "tf_keras":
        return adapter.calibrate(model, samples)
    grids = adapter.grids(model)
    for grid in grids.values():
        group = grid.group
        name = estimator or group.spec.estimator
        grid.estimator = make_estimator(name, group.qmin, group.qmax, group.symmetric)
        grid.mode = RangeMode.CALIBRATING
    try:
        index = -1
        for index, sample in enumerate(batches_of(samples, "calibration")):
            inputs = adapter.inputs_of((first_of_pair(sample, len(model.plan.graph.inputs)),))
            for x in inputs:
                check_finite(np.asarray(x), f"calibration batch {index}")
            adapter.forward(model, inputs)
        if index < 0:
            raise DataError("calibration got no samples: pass at least one batch (a generator that was used up yields none)")
        for name, grid in grids.items():
            low, high = grid.group.fixed_range or grid.estimator.range()
            if not np.isfinite([low, high]).all():
                raise CalibrationError(f"no finite values were seen for '{name}': check the model's weights for NaN")
            grid.set_range(low, high)
            grid.allow_tracking(grid.group.follows(estimator or grid.group.spec.estimator))
    finally:
        for grid in grids.values():
            grid.estimator, grid.mode = None, RangeMode.FROZEN
    return model

"""Calibration: the initial activation ranges from a few hundred samples, in one pass that keeps none of them."""

from __future__ import annotations

from typing import get_args

import numpy as np

from qat.arithmetic.range_estimators import Importance, RangeEstimator, RangeMode, Spans, make_estimator
from qat.display.progress import shown, tracked
from qat.errors import CalibrationError, ConfigError, DataError, QatError, nearest, reason_of
from qat.frameworks import adapter_for, framework_of, in_order, is_prepared
from qat.planning.plan import Group
from qat.system.samples import batches_of, check_finite, first_of_pair
from qat.typing import Estimator, P, PreparedModel, Samples

from .clear_borders import clear_borders
from .coarse_members import coarse_members
from .evidence import Evidence, labels_of
from .weighing import Weigher

_ESTIMATORS = get_args(Estimator)


def calibrate(model: P, samples: Samples, estimator: Estimator | None = None, *, progress: bool = True) -> P:
    """Set the activation ranges of a prepared model from samples. A second call starts afresh.

    The model runs in float on the samples, in one pass that keeps none of them. A few hundred samples are enough. The logger
    ``qat`` says what was seen (samples, classes, values), and warns of samples that are few, of one class, or constant.

    Args:
        model: from :func:`qat.prepare`.
        samples: batches of inputs, or ``(inputs, labels)`` pairs: a DataLoader, a tf.data pipeline, a list of arrays. A single
            array is one batch.
        estimator: ``minmax``, ``ema``, ``percentile``, ``mse``, ``importance`` or ``entropy``; None takes the recipe's.
        progress: whether to show how far it is, where it takes longer than two seconds.

    Returns:
        The model itself.

    Raises:
        CalibrationError: the model is not prepared, or its activations hold no finite value.
        ConfigError: there is no such estimator.
        DataError: no samples, or a sample with NaN or infinite values.

    Examples:
        >>> import numpy as np, qat, torch
        >>> x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> model.grids["input"].range.tolist()
        [-1.0, 1.0]
    """
    if not is_prepared(model):
        raise CalibrationError("calibrate needs a prepared model: call model = qat.prepare(float_model, example_inputs) first")
    _refuse_unknown(estimator)
    framework = framework_of(model)
    if framework == "tf_keras":
        adapter_for(framework).calibrate(model, samples)
        return model
    with shown(progress):
        set_ranges(model, samples, estimator).log()
    return model


def set_ranges(model: PreparedModel, samples: Samples, estimator: Estimator | None) -> Evidence:
    """Set the ranges of a PyTorch or Keras 3 model, as :func:`calibrate` says, and return what was seen."""
    _refuse_unknown(estimator)
    framework = framework_of(model)
    assert framework != "tf_keras"
    adapter = adapter_for(framework)
    grids = adapter.grids(model)
    graph = model.plan.graph
    evidence = Evidence(graph.layout, graph.inputs)
    estimators = {name: _estimator_of(grid.group, estimator) for name, grid in grids.items()}
    weighed = {name: found for name, found in estimators.items() if isinstance(found, Importance)}
    weigher = Weigher(model, adapter, weighed) if weighed else None
    for name, grid in grids.items():
        grid.estimator, grid.mode, grid.spans = estimators[name], RangeMode.CALIBRATING, Spans()
    try:
        index = -1
        for index, sample in enumerate(tracked(batches_of(samples, "calibration"), "calibration")):
            inputs = adapter.inputs_of((in_order(model, first_of_pair(sample, len(graph.inputs))),))
            arrays = [np.asarray(x) for x in inputs]
            for x in arrays:
                check_finite(x, f"calibration batch {index}")
            try:
                adapter.forward(model, inputs)
            except QatError:
                raise
            except Exception as error:  # the frameworks' own share no base class but this
                raise DataError(f"calibration batch {index}: the model does not take its values: {reason_of(error)}") from error
            if weigher is not None:
                weigher.see(arrays)
            evidence.add(arrays, labels_of(sample, len(graph.inputs)))
        if index < 0:
            raise DataError("calibration got no samples: pass at least one batch (a generator that was used up yields none)")
        for name, grid in grids.items():
            low, high = grid.group.fixed_range or grid.estimator.range()
            if not np.isfinite([low, high]).all():
                layer = next((p.op.layer for p in model.plan.ops if grid.group.tensors[0] in p.op.outputs), name)
                raise CalibrationError(
                    f"no finite values were seen for '{name}' of layer '{layer}': check the model's weights for NaN. Where its "
                    f"code fills a tensor with -inf, leave that float: a rule {{scope: '{layer}', mode: float}} in the recipe"
                )
            grid.set_range(low, high)
            grid.allow_tracking(grid.group.follows(estimator or grid.group.spec.estimator))
        evidence.of_scales = tuple(coarse_members(model.plan, grids))
    finally:
        for grid in grids.values():
            grid.estimator, grid.mode = None, RangeMode.FROZEN
    clear_borders(model)
    return evidence


def _estimator_of(group: Group, wanted: Estimator | None) -> RangeEstimator:
    """Return the estimator of a group: the one that is wanted for all, or the recipe's."""
    name = "minmax" if group.probabilities else wanted or group.spec.estimator
    return make_estimator(name, group.qmin, group.qmax, group.symmetric)


def _refuse_unknown(estimator: str | None) -> None:
    if estimator is not None and estimator not in _ESTIMATORS:
        raise ConfigError(f"unknown estimator '{estimator}'{nearest(estimator, _ESTIMATORS)}; valid: {', '.join(_ESTIMATORS)}")

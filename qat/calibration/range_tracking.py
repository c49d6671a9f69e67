"""The ranges in a training loop of the user's own: they follow the data, or they are frozen."""

from __future__ import annotations

from qat.errors import CalibrationError, ConfigError
from qat.frameworks import adapter_for, framework_of, is_prepared
from qat.typing import PreparedModel

from .clear_borders import clear_borders


def track_ranges(model: PreparedModel) -> None:
    """Let the activation ranges follow the data in training mode, from the next step on.

    Each range moves by a tenth of the way towards the extremes of the batch (an exponential moving average: Jacob et al. 2018,
    section 3.1). Ranges that are learned, or prescribed by a kernel, or that an estimator chose to leave values out of
    (``percentile``, ``mse``, ``entropy``), do not follow. Call :func:`freeze_ranges` before the end of training, so that the
    weights settle on one grid; :func:`finetune` does both by its option ``observe_fraction``.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        ConfigError: the model is of ``tf_keras``, whose ranges tensorflow-model-optimization moves.

    Examples:
        >>> import qat, torch
        >>> x = torch.linspace(-1, 1, 8).reshape(2, 4)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> qat.track_ranges(model)
        >>> _ = model.train()(2 * x)
        >>> [round(end, 2) for end in model.grids["input"].range.tolist()]
        [-1.1, 1.1]
    """
    _set(model, "track_ranges", True)


def freeze_ranges(model: PreparedModel) -> None:
    """Freeze the activation ranges: training moves the weights alone. They are frozen after :func:`qat.calibrate` too.

    For an ``.onnx``, ranges of functions grow by up to 0.8 % where that lets a float operator stand for a slow table. Call it at
    the end of training where a recipe has ranges learned.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        ConfigError: the model is of ``tf_keras``, whose ranges tensorflow-model-optimization moves.

    Examples:
        >>> import qat, torch
        >>> x = torch.linspace(-1, 1, 8).reshape(2, 4)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> qat.track_ranges(model)
        >>> qat.freeze_ranges(model)
        >>> _ = model.train()(2 * x)
        >>> model.grids["input"].range.tolist()
        [-1.0, 1.0]
    """
    _set(model, "freeze_ranges", False)
    clear_borders(model)


def _set(model: PreparedModel, call: str, tracking: bool) -> None:
    if not is_prepared(model):
        raise CalibrationError(f"{call} needs a prepared model: call qat.prepare and qat.calibrate first")
    framework = framework_of(model)
    if framework == "tf_keras":
        raise ConfigError(f"{call} is not for tf_keras models: load the model with Keras 3")
    if not all(grid.calibrated for grid in model.grids.values()):
        raise CalibrationError(f"the model is not calibrated: call qat.calibrate(model, samples) before {call}")
    adapter_for(framework).set_range_tracking(model, tracking)

"""``tf_keras`` (Keras 2) models, through tensorflow-model-optimization: its placement and its fake-quant nodes, our calls.

tfmot simulates in float and lets the TFLite converter choose the kernels, so parity with the artifact is measured, not promised.
The integer grid, and its equality in every bit, is for Keras 3 models.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot

from qat.adapters.keras.capture.own_training import own_training, refuse_own_training
from qat.adapters.keras.inference import forward, inputs_of, predict
from qat.errors import CalibrationError, CaptureError, ConfigError, DataError, ExportError, reason_of
from qat.planning.recipe import Recipe
from qat.planning.targets import Target
from qat.system.samples import batches_of, check_finite
from qat.system.silence import quiet
from qat.typing import Samples

#: tfmot's scheme is the one of TFLite.
DEFAULT_TARGET = "litert"
RECIPE = "static_wi8_ai8"
_quantizers = tfmot.quantization.keras.quantizers

__all__ = ["DEFAULT_TARGET", "calibrate", "convert", "forward", "inputs_of", "predict", "prepare"]


def prepare(model: Any, recipe: Recipe, target: Target) -> Any:
    """Return tfmot's fake-quantized copy of a Functional or Sequential ``tf_keras`` model.

    Raises:
        CaptureError: tfmot refuses the model, or the model has training of its own, which its copy would lose.
        ConfigError: another recipe or target than tfmot's own scheme.
    """
    if recipe.name != RECIPE or target.name != DEFAULT_TARGET:
        raise ConfigError(
            f"tf_keras models are prepared by tfmot, which has one scheme (recipe {RECIPE}, target {DEFAULT_TARGET}), not recipe "
            f"{recipe.name} for {target.name}: load the model with Keras 3 (import keras) for the others"
        )
    refuse_own_training(own_training(model), "tf_keras")
    try:
        prepared = tfmot.quantization.keras.quantize_model(model)
    except Exception as error:  # whatever the layer that tfmot meets makes it raise: an AttributeError for hard_swish
        reason = re.sub(r"<class '.*\.(\w+)'>", r"\1", reason_of(error)).partition(". ")[0].rstrip(".")
        raise CaptureError(f"tfmot does not take this model ({reason}): load it with Keras 3 (import keras) instead") from error
    prepared.qat_prepared, prepared.qat_calibrated = True, False
    return prepared


def calibrate(model: Any, samples: Samples) -> Any:
    """Set every activation's range to the extremes over the samples, every weight's to its own.

    tfmot alone starts from [-6, 6] and moves by a thousandth a step.
    """
    extremes: dict[int, tuple[Any, Any, float, float]] = {}

    def observe(quantizer: Any, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        low, high = weights["min_var"], weights["max_var"]
        _, _, least, most = extremes.get(id(low), (low, high, 0.0, 0.0))
        value = np.asarray(inputs)
        extremes[id(low)] = (low, high, min(least, float(value.min())), max(most, float(value.max())))
        return inputs

    index = -1
    with contextlib.ExitStack() as stack:
        for of_activations in (_quantizers.AllValuesQuantizer, _quantizers.MovingAverageQuantizer):
            stack.enter_context(_calling(of_activations, observe))
        of_weights = _quantizers.LastValueQuantizer
        stack.enter_context(_calling(of_weights, _in_training(of_weights.__call__)))
        for index, sample in enumerate(batches_of(samples, "calibration")):
            inputs = inputs_of(sample)
            for x in inputs:
                check_finite(x, f"calibration batch {index}")
            forward(model, inputs)
    if index < 0:
        raise DataError("calibration got no samples: pass at least one batch (a generator that was used up yields none)")
    for low, high, least, most in extremes.values():
        low.assign(least)
        high.assign(most)
    model.qat_calibrated = True
    return model


@contextlib.contextmanager
def _calling(quantizer: Any, call: Callable[..., Any]) -> Iterator[None]:
    """Let every quantizer of a class run ``call``; after it, its own method again."""
    original = quantizer.__call__
    quantizer.__call__ = call
    try:
        yield
    finally:
        quantizer.__call__ = original


def _in_training(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a quantizer's call that always takes the range of the weight it is shown, as tfmot does in training alone."""

    def call(quantizer: Any, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        return original(quantizer, inputs, True, weights, **kwargs)

    return call


def convert(model: Any, path: Path, io_dtype: str) -> bytes:
    """Return the trained model as a ``.tflite`` file's bytes.

    Raises:
        CalibrationError: the model was not calibrated.
        ExportError: the path is no ``.tflite``, or the converter fails.
    """
    if not getattr(model, "qat_calibrated", False):
        raise CalibrationError("no ranges: call qat.calibrate(model, samples) before exporting")
    if path.suffix != ".tflite":
        raise ExportError(f"{path}: a tf_keras model is exported as .tflite, not '{path.suffix}'")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io_dtype)
    try:
        with quiet():
            raw: bytes = converter.convert()
    except Exception as error:  # the converter's errors share no base class but this
        raise ExportError(f"TFLite's converter fails: {reason_of(error)}") from error
    return raw

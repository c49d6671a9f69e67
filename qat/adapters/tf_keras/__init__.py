"""The adapter of ``tf_keras`` (Keras 2): its models as Keras 3 models, or, where a layer has no like, through tfmot."""

from qat.adapters.keras.inference import forward, inputs_of, predict

from .conversion import as_keras3
from .tfmot import DEFAULT_TARGET, calibrate, convert, prepare

__all__ = ["DEFAULT_TARGET", "as_keras3", "calibrate", "convert", "forward", "inputs_of", "predict", "prepare"]

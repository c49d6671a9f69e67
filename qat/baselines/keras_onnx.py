"""Baselines of a Keras model as ``.onnx``: tf2onnx's float file, and ONNX Runtime's quantization of it."""

from __future__ import annotations

from functools import cache

import keras

from qat.exporters.onnx.from_keras import of_function
from qat.runtimes import ONNX

from .baseline import Maker, Sample
from .keras_call import call_of
from .onnxruntime import quantizers

FORMAT = ONNX
FLOAT_TOOL = "tf2onnx"
#: As of this toolkit's own artifacts.
_OPSET = 18


def makers(model: keras.Model, example: Sample, batches: list[Sample], per_channel: bool) -> list[Maker]:
    """Return a maker for each baseline, the float model's first. The float model is exported once."""

    @cache
    def exported() -> bytes:
        return float_bytes(model, example)

    return [Maker("float", FLOAT_TOOL, "float32", exported, "float"), *quantizers(exported, batches, per_channel)]


def float_bytes(model: keras.Model, example: Sample) -> bytes:
    """Return a float model as the bytes of an ``.onnx``, with a dynamic batch, in the layout of Keras.

    Raises:
        ExportError: tf2onnx does not know an operator.
        MissingDependencyError: tf2onnx is not installed.
    """
    specs, outputs = call_of(model, example)
    raw: bytes = of_function(outputs, specs, _OPSET).SerializeToString()
    return raw

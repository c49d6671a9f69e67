"""Baselines of a Keras model as ``.onnx``: tf2onnx's float file, and ONNX Runtime's quantization of it."""

from __future__ import annotations

from functools import cache

import keras

from qat.errors import MissingDependencyError
from qat.runtimes import ONNX
from qat.system.silence import quiet

from .baseline import Maker, Sample
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
        MissingDependencyError: tf2onnx is not installed.
    """
    try:
        import tf2onnx
        import tf2onnx.convert
    except ImportError as error:
        raise MissingDependencyError(
            "a Keras model becomes a float .onnx by tf2onnx: pip install 'qat-toolkit[keras-onnx]'"
        ) from error
    import tensorflow as tf

    specs = [
        tf.TensorSpec((None, *array.shape[1:]), array.dtype, name=tensor.name)
        for tensor, array in zip(model.inputs, example, strict=True)
    ]

    def outputs(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        returned = model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
        # An identity for each output: tf2onnx drops an output that is also an input, and merges two equal ones.
        return tuple(tf.identity(y) for y in tf.nest.flatten(returned))

    with quiet():
        written = tf2onnx.convert.from_function(tf.function(outputs), specs, opset=_OPSET)[0]
    # Of constants that it folds, tf2onnx leaves inputs behind that nothing reads: a caller would have to give them.
    names = {spec.name for spec in specs}
    kept = [value for value in written.graph.input if value.name.removesuffix(":0") in names]
    del written.graph.input[:]
    written.graph.input.extend(kept)
    raw: bytes = written.SerializeToString()
    return raw

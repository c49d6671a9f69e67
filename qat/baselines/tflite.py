"""Quantization of a Keras model by TensorFlow's TFLite converter and by AI Edge Quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from qat.runtimes import TFLITE
from qat.system.silence import quiet

from . import ai_edge
from .baseline import Maker, Sample
from .keras_call import call_of

FORMAT = TFLITE
FLOAT_TOOL = "TFLite converter"
#: A converter or a type of TensorFlow, which has no types.
_Object = Any


def makers(model: keras.Model, example: Sample, batches: list[Sample], per_channel: bool) -> list[Maker]:
    """Return a maker for each baseline, the float model's first. The float model is converted once."""

    @cache
    def exported() -> bytes:
        return float_bytes(model, example)

    def convert(configure: Callable[[_Object], None]) -> Callable[[], bytes]:
        return lambda: _convert(model, example, configure)

    def representative() -> Iterator[list[np.ndarray]]:
        for batch in batches:
            for index in range(len(batch[0])):
                yield [x[index : index + 1] for x in batch]

    def dynamic(converter: _Object) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    def float16(converter: _Object) -> None:
        dynamic(converter)
        converter.target_spec.supported_types = [tf.float16]

    def full(io_dtype: _Object) -> Callable[[_Object], None]:
        def configure(converter: _Object) -> None:
            dynamic(converter)
            converter.representative_dataset = representative
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = io_dtype
            converter._experimental_disable_per_channel = not per_channel

        return configure

    weights = "per channel" if per_channel else "per tensor"
    converted = {
        "tflite_dynamic": ("dynamic range", dynamic),
        "tflite_float16": ("float16", float16),
        "tflite_int8": (f"full int8, {weights}", full(tf.int8)),
        "tflite_uint8_io": (f"full int8, uint8 I/O, {weights}", full(tf.uint8)),
    }
    return [
        Maker("float", FLOAT_TOOL, "float32", exported, "float"),
        *(Maker(name, FLOAT_TOOL, recipe, convert(configure)) for name, (recipe, configure) in converted.items()),
        *ai_edge.makers(exported, lambda: batches, [spec.name for spec in call_of(model, example)[0]]),
    ]


def float_bytes(model: keras.Model, example: Sample) -> bytes:
    """Return a float model as the bytes of a ``.tflite``, by way of a SavedModel, whose signature AI Edge Quantizer needs."""
    specs, outputs = call_of(model, example)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", lambda *x: {f"output_{i}": tf.identity(y) for i, y in enumerate(outputs(*x))}, specs)
        archive.write_out(folder, verbose=False)
        raw: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return _in_order(raw, [spec.name for spec in specs])


def _in_order(raw: bytes, inputs: list[str]) -> bytes:
    """Return a file whose inputs and outputs are in the model's order; that of a SavedModel's conversion is none.

    The signature says which tensor each is: inputs by name, outputs by ``output_0``, ``output_1``, ...
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    signature, graph = model.signatureDefs[0], model.subgraphs[0]
    tensors = {entry.name.decode(): entry.tensorIndex for entry in (*signature.inputs, *signature.outputs)}
    outputs = [f"output_{i}" for i in range(len(signature.outputs))]
    if len(inputs) == len(signature.inputs) and all(name in tensors for name in inputs):
        graph.inputs = [tensors[name] for name in inputs]
    if all(name in tensors for name in outputs):
        graph.outputs = [tensors[name] for name in outputs]
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _convert(model: keras.Model, example: Sample, configure: Callable[[_Object], None]) -> bytes:
    with quiet():
        # Frozen: from_keras_model needs the call context of Keras 2, and variables would become resources.
        specs, outputs = call_of(model, example)
        frozen = convert_variables_to_constants_v2(tf.function(outputs).get_concrete_function(*specs))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        configure(converter)
        raw: bytes = converter.convert()
    return raw

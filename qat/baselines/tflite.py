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

from qat.system.silence import quiet

from .baseline import Maker

Batches = list[tuple[np.ndarray, ...]]


def makers(model: keras.Model, example: tuple[np.ndarray, ...], batches: Batches, per_channel: bool) -> list[Maker]:
    """Return every baseline of these tools; the float model is converted once."""

    @cache
    def exported() -> bytes:
        return float_bytes(model, example)

    def convert(configure: Callable[[Any], None]) -> Callable[[], bytes]:
        return lambda: _convert(model, configure)

    def representative() -> Iterator[list[np.ndarray]]:
        for batch in batches:
            for index in range(len(batch[0])):
                yield [x[index : index + 1] for x in batch]

    def dynamic(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    def float16(converter: Any) -> None:
        dynamic(converter)
        converter.target_spec.supported_types = [tf.float16]

    def full(io_dtype: Any) -> Callable[[Any], None]:
        def configure(converter: Any) -> None:
            dynamic(converter)
            converter.representative_dataset = representative
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = io_dtype
            converter._experimental_disable_per_channel = not per_channel

        return configure

    tool = "TFLite converter"
    weights = "per channel" if per_channel else "per tensor"
    return [
        ("float", tool, "float32", exported),
        ("tflite_dynamic", tool, "dynamic range", convert(dynamic)),
        ("tflite_float16", tool, "float16", convert(float16)),
        ("tflite_int8", tool, f"full int8, {weights}", convert(full(tf.int8))),
        ("tflite_uint8_io", tool, f"full int8, uint8 I/O, {weights}", convert(full(tf.uint8))),
        *(
            (f"aeq_{recipe}", "AI Edge Quantizer", recipe, _edge(exported, recipe, batches))
            for recipe in ("dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8")
        ),
    ]


def float_bytes(model: keras.Model, example: tuple[np.ndarray, ...]) -> bytes:
    """Convert the float model through a SavedModel, whose signature AI Edge Quantizer asks for."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        model.export(folder)
        raw: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return raw


def _convert(model: keras.Model, configure: Callable[[Any], None]) -> bytes:
    with quiet():
        # from_keras_model asks for the Keras 2 call context, and variables would become resources: freeze instead.
        specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]
        call = tf.function(lambda *x: model(x[0] if len(x) == 1 else list(x), training=False))
        frozen = convert_variables_to_constants_v2(call.get_concrete_function(*specs))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        configure(converter)
        raw: bytes = converter.convert()
    return raw


def _edge(exported: Callable[[], bytes], name: str, batches: Batches) -> Callable[[], bytes]:
    def make() -> bytes:
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import quantizer, recipe

        raw = exported()
        with quiet(), tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/float.tflite"
            with open(path, "wb") as file:
                file.write(raw)
            tool = quantizer.Quantizer(path)
            tool.load_quantization_recipe(getattr(recipe, name)())
            statistics = None
            if tool.need_calibration:
                interpreter = Interpreter(model_content=raw)
                key, runner = next(iter(interpreter.get_signature_list().items()))
                names = runner["inputs"]
                samples = [
                    {n: x[i : i + 1] for n, x in zip(names, batch, strict=True)}
                    for batch in batches
                    for i in range(len(batch[0]))
                ]
                statistics = tool.calibrate({key: samples})
            return bytes(tool.quantize(statistics).quantized_model)

    return make

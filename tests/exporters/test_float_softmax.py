"""A softmax that stays float is equal in every bit to the runtime's, on processors whose kernels are known."""

import keras
import numpy as np
import pytest

import qat
from qat.system.machine import processor

X = np.random.default_rng(0).normal(size=(32, 8)).astype("f")
KNOWN = processor().features.get("AVX2") and not processor().features.get("AVX512")


@pytest.mark.skipif(not KNOWN, reason="the processor has other kernels")
@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
def test_classifiers_that_end_in_a_softmax_are_exact(target, suffix, tmp_path):
    keras.utils.set_random_seed(0)
    entry = keras.Input((8,))
    middle = keras.layers.Dense(16, activation="relu")(entry)
    few, many = (keras.layers.Dense(n, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0)) for n in (3, 107))
    outputs = [keras.layers.Softmax()(few(middle)), keras.layers.Activation("softmax")(many(middle))]
    prepared = qat.calibrate(qat.prepare(keras.Model(entry, outputs), target=target), [X])
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1

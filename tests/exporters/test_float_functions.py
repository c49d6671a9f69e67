"""A softmax, sigmoid or tanh that stays float is equal in every bit to the runtime's, on processors whose kernels are known."""

import keras
import numpy as np
import pytest

import qat
from qat.planning.recipe import Recipe
from qat.system.machine import processor

X = np.random.default_rng(0).normal(size=(32, 8)).astype("f")
KNOWN = processor().features.get("AVX2") and not processor().features.get("AVX512")
TARGETS = pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
RECIPE = Recipe.model_validate({"name": "own", "rules": [{}, *({"op": f, "mode": "float"} for f in ("sigmoid", "tanh"))]})


def _dense(units):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))


@pytest.mark.skipif(not KNOWN, reason="the processor has other kernels")
@TARGETS
@pytest.mark.parametrize("functions", [("softmax", None), ("sigmoid", "tanh")], ids=["softmax", "sigmoid and tanh"])
def test_heads_that_stay_float_are_exact(target, suffix, functions, tmp_path):
    keras.utils.set_random_seed(0)
    entry = keras.Input((8,))
    middle = keras.layers.Dense(16, activation="relu")(entry)
    heads = [keras.layers.Activation(f) if f else keras.layers.Softmax() for f in functions]
    pixels = keras.layers.Reshape((1500, 3))(_dense(4500)(middle))
    outputs = [head(x) for head, x in zip(heads, (_dense(107)(middle), pixels), strict=True)]
    prepared = qat.calibrate(qat.prepare(keras.Model(entry, outputs), recipe=RECIPE, target=target), [X])
    assert len(prepared.plan.floats()) == 2
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1


def test_an_output_that_is_one_number_is_off_by_float32s_rounding_alone(tmp_path):
    entry = keras.Input((8,))
    model = keras.Model(entry, keras.layers.Softmax()(keras.layers.Dense(1)(entry)))
    prepared = qat.calibrate(qat.prepare(model, target="litert"), [X])
    parity = qat.export(prepared, tmp_path / "m.tflite", verify=[X]).parity
    assert parity.exact == 1 or parity.is_rounding  # TensorFlow has 1 - 2^-24 in some versions

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
pytestmark = pytest.mark.skipif(not KNOWN, reason="the processor has other kernels")


def _dense(units):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))


@TARGETS
@pytest.mark.parametrize("functions", [("softmax", None), ("sigmoid", "tanh")], ids=["softmax", "sigmoid and tanh"])
def test_heads_that_stay_float_are_exact(target, suffix, functions, tmp_path):
    keras.utils.set_random_seed(0)
    entry = keras.Input((8,))
    middle = keras.layers.Dense(16, activation="relu")(entry)
    heads = [keras.layers.Activation(f) if f else keras.layers.Softmax() for f in functions]
    outputs = [head(_dense(n)(middle)) for head, n in zip(heads, (107, 3), strict=True)]
    prepared = qat.calibrate(qat.prepare(keras.Model(entry, outputs), recipe=RECIPE, target=target), [X])
    assert len(prepared.plan.floats()) == 2
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1

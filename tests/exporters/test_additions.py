"""Additions of very different scales, which TFLite's own kernel runs instead of the delegate."""

import json

import numpy as np
import pytest

import qat
from qat.arithmetic.xnnpack import adds

keras = pytest.importorskip("keras")
pytest.importorskip("ai_edge_litert")


class Shift(keras.layers.Layer):
    """A number times the input, and a number of zero: HGNet's learned affine block as it begins."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def build(self, shape):
        self.scale = self.add_weight(shape=(1,), initializer=keras.initializers.Constant(self.factor), name="scale")
        self.shift = self.add_weight(shape=(1,), initializer="zeros", name="shift")

    def call(self, x):
        return x * self.scale + self.shift


def test_a_zero_beside_small_values_is_exact(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    small = keras.layers.Conv2D(16, 3, activation="relu", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-4))(inputs)
    # The concat's scale is far from the branches' own, and one integer of each branch is just below half a step of it.
    branches = [Shift(0.4999 / integer)(small) for integer in range(30, 40)]
    outputs = keras.layers.Conv2D(4, 1)(keras.layers.Concatenate()([small, *branches]))
    x = np.random.default_rng(0).normal(size=(128, 8, 8, 3)).astype(np.float32)
    model = qat.calibrate(qat.prepare(keras.Model(inputs, outputs), x[:2]), [x])
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[x])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    encodings = json.loads((tmp_path / "m.tflite.encodings.json").read_text())["encodings"]
    addition = next(p.op for p in model.plan.ops if p.op.kind == "add")
    first, second, total = (np.float32(encodings[name]["scale"]) for name in (*addition.inputs, addition.output))
    assert not adds(first / total, second / total)

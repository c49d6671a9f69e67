"""Models of another precision than float32 are prepared as the float32 model of the same weights."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import qat

X = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")


class Block(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm = L.Dense(6), L.LayerNormalization()

    def build(self, shape):
        self.scale = self.add_weight(shape=(6,), initializer="uniform", name="scale")

    def call(self, x):
        return ops.cast(ops.softmax(ops.cast(self.norm(self.dense(x)), "float32")), self.compute_dtype) * self.scale


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.block, self.head = L.Conv2D(4, 3, activation="relu"), Block(), L.Dense(3, dtype="float32")

    def call(self, x):
        return self.head(ops.mean(self.block(self.conv(x)), (1, 2)))


def functional():
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()])
    x = keras.Input((8, 8, 3), name="image", dtype="float16")
    y = L.SimpleRNN(4, recurrent_initializer="glorot_uniform")(L.Reshape((4, 36))(L.Dropout(0.1)(inner(x)) * 0.5))
    return keras.Model(x, L.Dense(3, dtype="float32")(Block()(y)))


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    keras.utils.set_random_seed(0)
    yield request.param
    keras.config.set_dtype_policy(before)


def outputs(model, x):
    return ops.convert_to_numpy(ops.cast(model(x, training=False), "float32"))


@pytest.mark.parametrize(
    ("policy", "make", "suffix"),
    [("mixed_float16", functional, ".onnx"), ("mixed_bfloat16", Subclassed, ".tflite"), ("bfloat16", functional, ".tflite")],
    indirect=["policy"],
)
def test_another_precision_is_captured_as_float32(policy, make, suffix, tmp_path, caplog):
    model, x = make(), X.astype("float16")
    prepared = qat.prepare(model, x, target={".onnx": "onnxruntime", ".tflite": "litert"}[suffix])
    assert f"computes in {policy}: it is prepared as the float32 model of the same weights" in caplog.text
    assert {each.dtype_policy.name for each in prepared._flatten_layers()} == {"float32"}
    assert {spec.dtype for spec in prepared.plan.graph.tensors.values()} == {"float32"}
    assert "conv2d" in {p.op.kind for p in prepared.plan.ops if p.integer}
    # What differs is the float model's rounding: 8 bits of bfloat16's numbers.
    assert np.abs(outputs(prepared, x) - outputs(model, x)).max() < 0.03
    assert policy in {each.dtype_policy.name for each in model._flatten_layers()}

    qat.calibrate(prepared, [x])
    prepared.save(tmp_path / "prepared.keras")
    loaded = keras.models.load_model(tmp_path / "prepared.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(prepared, x))
    assert qat.export(loaded, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_the_global_policy_leaves_a_float32_model_alone(policy, caplog):
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, dtype="float32"), L.Flatten(dtype="float32")], name="plain")
    prepared = qat.prepare(model, X)
    assert "computes in" not in caplog.text
    np.testing.assert_allclose(outputs(prepared, X), outputs(model, X), rtol=1e-5, atol=1e-5)
    assert keras.config.dtype_policy().name == policy

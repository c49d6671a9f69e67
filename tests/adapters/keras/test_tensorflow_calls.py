"""Layers whose call is written in TensorFlow's functions, as that of tf.keras is: recorded as operations of keras.ops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import qat
from qat.adapters.keras.capture import tensorflow_calls
from qat.adapters.keras.capture.tensorflow_calls import recorded_calls
from support.rows import by_turns

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 8, 4)).astype(np.float32)
W = RNG.normal(size=(3, 3, 4, 5)).astype(np.float32)

POSITIVE = (tf.math.log, tf.math.log1p, tf.sqrt, tf.math.rsqrt, tf.math.reciprocal)
OF_TWO = (
    tf.add, tf.subtract, tf.multiply, tf.divide, tf.truediv, tf.math.divide_no_nan, tf.maximum, tf.minimum,
    tf.math.squared_difference, tf.equal, tf.not_equal, tf.greater, tf.greater_equal, tf.less, tf.less_equal,
)  # fmt: skip


def spectrum(x):
    return tf.signal.stft(tf.reshape(x, (4, -1)), 20, 12)


CALLS = {
    tf.signal.stft: lambda x: tf.abs(spectrum(x)),
    tf.math.real: lambda x: tf.math.real(spectrum(x)),
    tf.math.imag: lambda x: tf.math.imag(spectrum(x)),
    tf.pow: lambda x: tf.pow(tf.abs(x), 2.0),
    tf.logical_and: lambda x: tf.logical_and(x > 0, x < 1),
    tf.logical_or: lambda x: tf.logical_or(x > 0, x < -1),
    tf.logical_not: lambda x: tf.logical_not(x > 0),
    tf.nn.bias_add: lambda x: tf.nn.bias_add(x, tf.ones(4)),
    tf.where: lambda x: tf.where(x > 0, x, 0.0),
    tf.einsum: lambda x: tf.einsum("bijc,bikc->bjk", x, x),
    tf.squeeze: lambda x: tf.squeeze(x[:, :1], 1),
    tf.expand_dims: lambda x: tf.expand_dims(x, -1),
    tf.concat: lambda x: tf.concat([x, x], -1),
    tf.stack: lambda x: tf.stack([x, x], 1),
    tf.add_n: lambda x: tf.add_n([x, x, x]),
    tf.roll: lambda x: tf.roll(x, 1, 2),
    tf.nn.embedding_lookup: lambda x: tf.nn.embedding_lookup(tf.ones((5, 3)), tf.cast(x > 0, tf.int32)),
    tf.tile: lambda x: tf.tile(x, [1, 1, 2, 1]),
    tf.reverse: lambda x: tf.reverse(x, [1]),
    tf.broadcast_to: lambda x: tf.broadcast_to(x[:, :1], [4, 6, 8, 4]),
    tf.reshape: lambda x: tf.reshape(x, [tf.shape(x)[0], -1, 4]),
    tf.shape: lambda x: tf.zeros(tf.shape(x)) + x,
    tf.cast: lambda x: tf.cast(x, tf.int32),
    tf.clip_by_value: lambda x: tf.clip_by_value(x, -1, 1),
    tf.repeat: lambda x: tf.repeat(x, 2, axis=1),
    tf.one_hot: lambda x: tf.one_hot(tf.cast(x > 0, tf.int32), 3),
    tf.tensordot: lambda x: tf.tensordot(x, W[0, 0], 1),
    tf.matmul: lambda x: tf.matmul(x, x, transpose_b=True),
    tf.split: lambda x: tf.split(x, [1, -1], -1)[1],
    tf.unstack: lambda x: tf.unstack(x, axis=1)[2],
    tf.gather: lambda x: tf.gather(x, [0, 2], axis=2),
    tf.pad: lambda x: tf.pad(x, [[0, 0], [1, 1], [2, 2], [0, 0]], "REFLECT"),
    tf.nn.moments: lambda x: tf.nn.moments(x, [1, 2], keepdims=True)[1],
    tf.math.top_k: lambda x: tf.math.top_k(x, 2)[0],
    tf.nn.depth_to_space: lambda x: tf.nn.depth_to_space(x, 2),
    tf.nn.space_to_depth: lambda x: tf.nn.space_to_depth(x, 2),
    tf.nn.conv2d: lambda x: tf.nn.conv2d(x, W, [1, 2, 2, 1], "SAME"),
    tf.nn.depthwise_conv2d: lambda x: tf.nn.depthwise_conv2d(x, W[..., :2], [1, 1, 1, 1], "VALID"),
    tf.nn.max_pool2d: lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
    tf.nn.avg_pool2d: lambda x: tf.nn.avg_pool2d(x, [1, 3, 3, 1], [1, 2, 2, 1], "SAME"),
    tf.image.resize: lambda x: tf.image.resize(x, (12, 12)),
    tf.reduce_any: lambda x: tf.reduce_any(x > 0, 1),
    tf.reduce_all: lambda x: tf.reduce_all(x > 0, [1, 2]),
    **{f: lambda x, f=f: f(tf.abs(x) + 0.1) for f in POSITIVE},
    **{f: lambda x, f=f: f(x, 0.5 * x) for f in OF_TWO},
}


def test_every_function_is_recorded_as_what_it_computes():
    entry = keras.KerasTensor(X.shape)
    functions = [*tensorflow_calls._SAME, *tensorflow_calls._FORMS]
    with recorded_calls():
        recorded = {f: CALLS.get(f, f)(entry) for f in functions}
    found = keras.Function(entry, [y for y in recorded.values() if y is not entry])(X)
    for f, y in zip([f for f, y in recorded.items() if y is not entry], found, strict=True):
        expected = CALLS.get(f, f)(tf.constant(X))
        np.testing.assert_allclose(np.asarray(y, "f"), np.asarray(expected, "f"), rtol=1e-4, atol=1e-5, err_msg=str(f))
        assert y.dtype == expected.dtype, f
    with pytest.raises(ValueError, match=r"KerasTensor cannot be used as input to a TensorFlow function"):
        tf.add(entry, 1)


class Attention(keras.layers.Layer):
    """As a tutorial of tf.keras writes it: with the number of samples, and variables."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.key, self.value = (keras.layers.Dense(8) for _ in range(3))

    def build(self, shape):
        self.gain = self.add_weight(shape=(8, 8), name="gain")

    def heads(self, x):
        return tf.transpose(tf.reshape(x, (tf.shape(x)[0], -1, 2, 4)), perm=[0, 2, 1, 3])

    def call(self, x):
        query, key, value = (self.heads(dense(x)) for dense in (self.query, self.key, self.value))
        scores = tf.matmul(query, key, transpose_b=True) / tf.math.sqrt(tf.cast(tf.shape(key)[-1], tf.float32))
        shared = tf.transpose(tf.matmul(tf.nn.softmax(scores, axis=-1), value), perm=[0, 2, 1, 3])
        return tf.matmul(tf.reshape(shared, (tf.shape(x)[0], -1, 8)), self.gain)


def test_a_layer_of_tensorflows_functions_runs_in_integers(tmp_path):
    keras.utils.set_random_seed(0)
    entry = keras.Input((6, 8))
    net = keras.Model(entry, keras.layers.Dense(3)(Attention()(entry)))
    x = RNG.normal(size=(8, 6, 8)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(net, target="litert"), [x])
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared(x), net(x), atol=0.1)
    assert any(v.path.endswith("gain") for v in prepared.trainable_variables)
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


class Recurrence(keras.layers.Layer):
    """A recurrence by hand, whose states TensorFlow's arrays hold."""

    def __init__(self, joined, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.again, self.joined = keras.layers.Dense(4, name="inner"), keras.layers.Dense(4, name="again"), joined

    def call(self, x):
        lines = tf.TensorArray(tf.float32, size=6).unstack(tf.transpose(x, [1, 0, 2]))
        states, state = tf.TensorArray("float32", 0, dynamic_size=True), self.inner(x[:, 0])
        for step in range(6):
            state = tf.tanh(self.inner(lines.read(step)) + self.again(state))
            states = states.write(step, state)
        return self.joined(states)


JOINED = {
    "stack": lambda states: tf.transpose(states.stack(), [1, 0, 2]),
    "gather": lambda states: states.gather([1, 5])[1],
    "concat": lambda states: tf.reshape(states.concat(), [6, -1, 4])[2],
}


@pytest.mark.parametrize(("name", "target"), by_turns(JOINED))
def test_arrays_of_tensors_are_lists(name, target, tmp_path):
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(8, 6, 3)).astype(np.float32)
    entry = keras.Input((6, 3))
    model = keras.Model(entry, keras.layers.Dense(2)(Recurrence(JOINED[name])(entry)))
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-5)
    assert {p.op.kind for p in prepared.plan.ops if p.integer} >= {"dense", "add", "tanh"}
    file = tmp_path / f"m{prepared.plan.target.suffix}"
    assert qat.export(qat.calibrate(prepared, [x]), file, verify=[x]).parity.exact == 1


def test_a_recurrent_layer_of_keras_beside_them(tmp_path):
    class Both(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.recurrent = keras.layers.GRU(4, return_sequences=True)

        def call(self, x):
            return tf.TensorArray(tf.float32, 2).write(0, x).write(1, self.recurrent(x)).stack()[1]

    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(8, 6, 4)).astype(np.float32)
    entry = keras.Input((6, 4))
    model = keras.Model(entry, keras.layers.Dense(2)(Both()(entry)))
    prepared = qat.prepare(model, target="litert")
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-5)
    assert {"GRU", "Stack"} <= {p.op.attrs.get("target") for p in prepared.plan.ops if p.op.name in prepared.plan.floats()}

"""Loops and branches in the call of a layer: an .onnx has operators of them, a .tflite does not take them, as prepare says.

Loops of a fixed number of steps are written out.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import qat
from qat.errors import CaptureError, ExportError

X = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)


def repeated(x):
    return ops.while_loop(lambda i, _: i < 5, lambda i, y: (i + 1, 0.5 * y + 1.0), (ops.zeros((), "int32"), x))[1]


def scanned(x):
    lines = ops.transpose(ops.reshape(x, (-1, 4, 2)), (1, 0, 2))
    return ops.scan(lambda state, line: (0.5 * state + line, line), lines[0], lines, reverse=True)[0]


def size(x):
    """Return the size of an axis as TensorFlow's graphs know it; that of tf.shape is recorded as a number."""
    return tf.raw_ops.Shape(input=x)[1]


def sums(number):
    """Return a number by a hundred sums, each of which reads the one before twice."""
    for _ in range(100):
        number = tf.minimum(number + number, 9)
    return number


CALLS = {
    "while": repeated,
    "for many": lambda x: ops.fori_loop(0, 400, lambda i, y: 0.99 * y + 0.01, x),
    "branch": lambda x: ops.cond(ops.max(x) > 0, lambda: 2.0 * x, lambda: x),
    "branch by a size": lambda x: tf.cond(size(x) > 4, lambda: 2.0 * x, lambda: x),
    "branch by many sums": lambda x: tf.cond(sums(size(x)) > 4, lambda: 2.0 * x, lambda: x),
    "map": lambda x: ops.vectorized_map(lambda y: 2.0 * y, x),
    "of TensorFlow": lambda x: tf.while_loop(lambda i, _: i < 5, lambda i, y: (i + 1, 0.5 * y), (0, x))[1],
}
WRITTEN_OUT = {"for": lambda x: ops.fori_loop(0, 4, lambda i, y: 0.5 * y + 1.0, x), "scan": scanned}


@keras.saving.register_keras_serializable("test_control_flow")
class Own(keras.layers.Layer):
    """A layer with a function of its own, by name."""

    def __init__(self, named, **kwargs):
        super().__init__(**kwargs)
        self.named = named

    def call(self, x):
        return (CALLS | WRITTEN_OUT)[self.named](x)

    def get_config(self):
        return {**super().get_config(), "named": self.named}


def net(middle):
    keras.utils.set_random_seed(0)
    entry = keras.Input((6,))
    return keras.Model(entry, keras.layers.Dense(3)(middle(keras.layers.Dense(8)(entry))))


@pytest.mark.parametrize("named", CALLS)
def test_a_layer_with_a_loop_or_a_branch_is_kept_whole(named):
    prepared = qat.prepare(net(Own(named, name="own")), target="onnxruntime")
    assert "own" in prepared.plan.floats()
    np.testing.assert_allclose(prepared(X), net(Own(named))(X), atol=1e-5)


@pytest.mark.parametrize("named", ["while", "branch"])
def test_it_reaches_an_onnx(named, tmp_path):
    prepared = qat.calibrate(qat.prepare(net(Own(named)), target="onnxruntime"), [X])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[X]).parity.exact == 1.0


@pytest.mark.parametrize("named", ["while", "for many", "branch", "of TensorFlow"])
def test_prepare_refuses_it_for_a_tflite(named):
    with pytest.raises(ExportError, match=r"cannot hold the loop or the branch of Own: .*or choose the target 'onnxruntime'$"):
        qat.prepare(net(Own(named)), target="litert")


@pytest.mark.parametrize("named", ["map", "branch by a size", "branch by many sums"])
def test_what_the_converter_takes_apart_reaches_a_tflite(named, tmp_path):
    prepared = qat.calibrate(qat.prepare(net(Own(named)), target="litert"), [X])
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[X]).parity.exact == 1.0


@pytest.mark.parametrize(("named", "suffix"), [("for", ".onnx"), ("scan", ".tflite")])
def test_a_loop_of_few_steps_is_written_out_and_runs_in_integers(named, suffix, tmp_path):
    target = {".onnx": "onnxruntime", ".tflite": "litert"}[suffix]
    prepared = qat.calibrate(qat.prepare(net(Own(named)), target=target), [X])
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared(X), net(Own(named))(X), atol=0.1)
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1.0


class Sums(keras.layers.Layer):
    """The sums of what stands behind each number; Keras cannot tell their shape."""

    def call(self, x):
        return ops.associative_scan(ops.add, x, reverse=True, axis=1)

    def compute_output_shape(self, shape):
        return shape


def test_an_associative_scan_of_few_steps_is_written_out(tmp_path):
    prepared = qat.calibrate(qat.prepare(net(Sums()), target="onnxruntime"), [X])
    assert not prepared.plan.floats()
    expected = ops.flip(ops.cumsum(ops.flip(net(keras.layers.Identity()).layers[1](X), 1), 1), 1)
    np.testing.assert_allclose(prepared(X), net(Sums()).layers[-1](expected), atol=0.1)
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[X]).parity.exact == 1.0


def test_a_loop_outside_of_any_layer_is_refused_by_name():
    with pytest.raises(CaptureError, match=r"\(WhileLoop\) is made of functions.*in the call of a layer of your own$"):
        qat.prepare(net(repeated))

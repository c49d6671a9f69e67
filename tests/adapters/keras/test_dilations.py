"""Dilated convolutions in training: their gradients are those of the operator, and prepared models train."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import qat
from qat.adapters.keras.autograd import eigen
from qat.adapters.keras.autograd.linear import Convolution

PADDINGS = {"valid": "VALID", "same": "SAME", "explicit": ((3, 0), (1, 2))}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dilations", [(2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("kind", ["depthwise", "full", "groups", "groups in parts", "full in parts"])
def test_gradients_are_those_of_the_operator(padding, dilations, kind, monkeypatch):
    # The operator is linear: the gradient of <g, op(x, w)> in the direction dx is <g, op(dx, w)>.
    rng = np.random.default_rng(0)
    if "parts" in kind:  # as where TensorFlow has no oneDNN
        monkeypatch.setattr(eigen, "has_every_gradient", lambda: False)
    depth, filters = {"depthwise": (4, 1), "groups": (2, 6)}.get(kind.removesuffix(" in parts"), (4, 5))
    x, dx = (tf.constant(rng.normal(size=(2, 12, 13, 4)), tf.float32) for _ in range(2))
    w, dw = (tf.constant(rng.normal(size=(3, 2, depth, filters)), tf.float32) for _ in range(2))
    operator = Convolution((1, 1), PADDINGS[padding], dilations, kind == "depthwise")
    g = tf.constant(rng.normal(size=operator.forward(x, w).shape), tf.float32)
    along_x = tf.reduce_sum(operator.input_gradient(x, w, g) * dx)
    along_w = tf.reduce_sum(operator.weight_gradient(x, w, g) * dw)
    assert float(along_x) == pytest.approx(float(tf.reduce_sum(g * operator.forward(dx, w))), rel=1e-4, abs=1e-3)
    assert float(along_w) == pytest.approx(float(tf.reduce_sum(g * operator.forward(x, dw))), rel=1e-4, abs=1e-3)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = tf.reduce_sum(g * operator.forward(x, w))
    for found, own in zip(tape.gradient(y, [x, w]), (operator.input_gradient, operator.weight_gradient), strict=True):
        np.testing.assert_allclose(found, own(x, w, g), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [(1, 2), (4, 2), (3, 2)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_depthwise_strides_may_differ_without_onednn(padding, strides, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(eigen, "has_every_gradient", lambda: False)
    x, w = tf.constant(rng.normal(size=(2, 12, 13, 4)), tf.float32), tf.constant(rng.normal(size=(3, 2, 4, 2)), tf.float32)
    operator = Convolution(strides, PADDINGS[padding], (1, 1), depthwise=True)
    pads = PADDINGS[padding] if padding == "explicit" else ((0, 0), (0, 0))
    filters = tf.reshape(tf.einsum("abcd,ce->abecd", w, tf.eye(4)), (3, 2, 4, 8))
    word = "VALID" if padding == "explicit" else PADDINGS[padding]
    with tf.GradientTape() as tape:
        tape.watch([x, filters])
        y = tf.nn.conv2d(tf.pad(x, [(0, 0), *pads, (0, 0)]), filters, strides, word)
    np.testing.assert_allclose(operator.forward(x, w), y, rtol=1e-4, atol=1e-4)
    g = tf.constant(rng.normal(size=y.shape), tf.float32)
    gx, gw = tape.gradient(y, [x, filters], g)
    np.testing.assert_allclose(operator.input_gradient(x, w, g), gx, rtol=1e-4, atol=1e-4)
    gw = tf.einsum("abccd->abcd", tf.reshape(gw, (3, 2, 4, 4, 2)))
    np.testing.assert_allclose(operator.weight_gradient(x, w, g), gw, rtol=1e-4, atol=1e-4)


LAYERS = {
    "valid": lambda x: keras.layers.DepthwiseConv2D(3, dilation_rate=2)(x),
    "same": lambda x: keras.layers.DepthwiseConv2D((3, 2), dilation_rate=(1, 3), padding="same")(x),
    "separable": lambda x: keras.layers.SeparableConv2D(6, 3, dilation_rate=(2, 1))(x),
    "signals": lambda x: keras.layers.SeparableConv1D(6, 3, dilation_rate=4)(keras.layers.Reshape((20 * 20, 8))(x)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_dilated_depthwise_layer_trains_and_is_exact(layer, tmp_path):
    keras.utils.set_random_seed(0)
    entry = keras.Input((20, 20, 8))
    model = keras.Model(entry, LAYERS[layer](entry))
    x = np.random.default_rng(0).normal(size=(4, 20, 20, 8)).astype("float32")
    prepared = qat.calibrate(qat.prepare(model), [x])
    gradients = []
    for net in (model, prepared):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(x, training=True) ** 2)
        gradients.append([np.ravel(g) for g in tape.gradient(loss, net.trainable_variables)])
    for plain, ours in zip(*gradients, strict=True):
        assert np.corrcoef(plain, ours)[0, 1] > 0.95
    assert qat.export(prepared, tmp_path / "model.tflite", verify=[x]).parity.exact == 1.0

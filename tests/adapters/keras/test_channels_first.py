"""Layers with the channels first run in integers as those with the channels last do."""

import keras
import numpy as np
import pytest
from keras import layers

import qat

X = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype("f")
TARGETS = {".onnx": "onnxruntime", ".tflite": "litert"}


def net(order, last_activation=None):
    """Return a residual net on images with the channels first, of layers in either order."""
    first = order == "channels_first"
    axis = 1 if first else -1
    inputs = x = keras.Input((3, 12, 12))
    x = x if first else layers.Permute((2, 3, 1))(x)
    x = layers.ZeroPadding2D(1, data_format=order)(x)
    x = layers.Conv2D(8, 3, use_bias=False, data_format=order)(x)
    x = shortcut = layers.ReLU()(layers.BatchNormalization(axis)(x))
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu", data_format=order)(layers.Dropout(0.1)(x))
    x = layers.Add()([x, shortcut])
    x = layers.Concatenate(axis)([x, layers.MaxPooling2D(3, 1, "same", data_format=order)(x)])
    x = layers.Conv2D(5, 3, 2, activation=last_activation, data_format=order)(x)
    pooled = layers.Dense(4)(layers.GlobalAveragePooling2D(data_format=order)(x))
    return keras.Model(inputs, [x if first else layers.Permute((3, 1, 2))(x), pooled])


@pytest.mark.parametrize("suffix", TARGETS)
def test_a_net_with_the_channels_first_is_exact_and_in_integers(suffix, tmp_path):
    keras.utils.set_random_seed(0)
    models = [net(order) for order in ("channels_first", "channels_last")]
    models[1].set_weights(models[0].get_weights())
    prepared, other = (qat.calibrate(qat.prepare(model, X, target=TARGETS[suffix], dropout=False), [X]) for model in models)
    kinds = [op.op.kind for op in prepared.plan.ops]
    assert all(op.integer for op in prepared.plan.ops) and kinds.count("transpose") == 2
    for mine, theirs in zip(prepared(X), other(X), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1


def test_an_activation_over_an_axis_goes_by_the_order_of_the_user(tmp_path):
    prepared = qat.prepare(net("channels_first", "softmax"), X, target="litert")
    np.testing.assert_allclose(np.sum(prepared(X)[0], -1), 1, atol=0.02)

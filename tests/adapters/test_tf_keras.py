"""``tf_keras`` models as Keras 3 models: layer by layer, exact; and the layers that have no like."""

import logging

import keras
import numpy as np
import pytest
import tf_keras
import torch
from tf_keras import layers

import qat
from qat.adapters.tf_keras import as_keras3
from qat.errors import CaptureError, ConfigError, ConversionError


def built(make, shape=(12, 12, 3)):
    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input(shape, name="picture")
    return tf_keras.Model(inputs, make(inputs))


def separable(x):
    x = layers.SeparableConv2D(8, 3, padding="same", depthwise_initializer="he_normal", name="a/b")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(axis=[-1])(x))
    return layers.Dense(4)(layers.GlobalAveragePooling2D(keepdims=False)(x))


def functions(x):
    y = layers.Conv2D(8, 3, name="multiply")(x)
    y = y * (layers.ReLU(6.0)(y + 3.0) * (1 / 6))
    return layers.Dense(4)(layers.Flatten()(y[:, 1:-1, 1:-1]))


def nested(x):
    inner = tf_keras.Sequential([layers.Conv2D(4, 3, activation="relu"), layers.Dropout(0.5)], name="inner")
    shared = layers.Conv2D(4, 1, name="shared")
    y = inner(x)
    return layers.Dense(4)(layers.GlobalMaxPooling2D()(layers.Add()([shared(y), shared(layers.Activation("swish")(y))])))


def scaled(x):
    x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    norm = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    return layers.Dense(3, activation="softmax")(layers.Flatten()(layers.DepthwiseConv2D(3, use_bias=False)(norm(x))))


def renamed(x):
    x = layers.LeakyReLU(0.2)(layers.Conv2D(4, 3)(layers.RandomFlip()(x)))
    x = layers.ThresholdedReLU(0.3)(layers.SpatialDropout2D(0.5)(layers.SpectralNormalization(layers.Conv2D(4, 3))(x)))
    return layers.Dense(3, activation="hard_sigmoid")(layers.TimeDistributed(layers.LeakyReLU(0.1))(layers.Flatten()(x)[:, None]))


@pytest.mark.parametrize("make", [separable, functions, nested, scaled, renamed])
def test_a_model_becomes_one_of_keras_3_and_its_artifact_is_exact(make, tmp_path):
    model, x = built(make), np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)
    found = as_keras3(model)
    np.testing.assert_allclose(np.asarray(found(x, training=False)), np.asarray(model(x, training=False)), atol=1e-6)
    names = {layer.name.replace("/", "_") for layer in model.layers if layer.weights}
    assert names <= {layer.name for layer in found.layers}
    prepared = qat.calibrate(qat.prepare(model), [x])
    parity = qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity
    assert parity.exact == 1.0 or (make is scaled and parity.max_lsb < 1e-4)  # its softmax is float, and each processor's own


def test_a_model_of_keras_2_can_go_to_onnx_and_has_a_plan(tmp_path):
    model, x = built(separable), np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)
    assert qat.plan(model).ops
    prepared = qat.calibrate(qat.prepare(model, target="onnxruntime"), [x])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


def test_names_of_inputs_and_outputs_stay():
    a, b = tf_keras.Input((4,), name="a"), tf_keras.Input((3,), name="b")
    model = tf_keras.Model(
        {"left": a, "right": b}, {"sum": layers.Dense(2)(layers.Concatenate()([a, b])), "a": layers.Dense(1)(a)}
    )
    found = as_keras3(model)
    given = {"left": np.ones((2, 4), np.float32), "right": np.zeros((2, 3), np.float32)}
    outputs = found(given)
    assert set(outputs) == {"sum", "a"}
    np.testing.assert_allclose(np.asarray(outputs["sum"]), np.asarray(model(given)["sum"]), atol=1e-6)


def test_recurrent_and_embedding_layers_have_likes():
    words = tf_keras.Input((6,), dtype="int32")
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(layers.Embedding(20, 8)(words))
    x = layers.TimeDistributed(layers.Dense(3))(layers.LSTM(4, return_sequences=True)(x))
    as_keras3(tf_keras.Model(words, layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x))))


class Own(layers.Layer):
    def call(self, x):
        return x * 2


@pytest.mark.parametrize(
    "layer", [layers.LSTM(3, recurrent_activation="hard_sigmoid"), layers.Bidirectional(layers.GRU(3, activation="hard_sigmoid"))]
)
def test_the_hard_sigmoid_of_keras_2_is_less_steep(layer):
    model = built(layer, (5, 4))
    x = 3 * np.random.default_rng(0).normal(size=(4, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(as_keras3(model)(x)), np.asarray(model(x)), atol=1e-6)


def test_a_frozen_layer_stays_frozen():
    model = built(layers.Conv2D(4, 3))
    model.layers[-1].trainable = False
    assert as_keras3(model).trainable_variables == []


def test_a_layer_of_the_users_own_goes_through_tfmot_or_is_refused_by_name(caplog, monkeypatch):
    model = built(lambda x: layers.Dense(2)(layers.Flatten()(Own(name="mine")(x))))
    with pytest.raises(ConversionError, match=r"layer 'mine' \(Own\) has no like in Keras 3"):
        qat.plan(model)
    with pytest.raises(CaptureError, match=r"tfmot .*layer 'mine' \(Own\) has no like in Keras 3"):
        qat.prepare(model)
    # What Keras 3 lacks, and tfmot takes.
    monkeypatch.delattr(keras.layers, "ReLU")
    model = built(lambda x: layers.Dense(2)(layers.Flatten()(layers.ReLU(name="odd")(layers.Conv2D(4, 3)(x)))))
    with caplog.at_level(logging.WARNING, "qat"):
        prepared = qat.prepare(model)
    assert isinstance(prepared, tf_keras.Model)
    assert "not promised: layer 'odd' (ReLU) has no like in Keras 3" in caplog.text


def test_engines_are_named_where_one_does_not_fit():
    with pytest.raises(ConfigError, match=r"engine 'tfmot' is not for torch models"):
        qat.prepare(torch.nn.Linear(2, 2), torch.zeros(1, 2), engine="tfmot")
    model = built(separable)
    model.train_step = lambda data: {}
    with pytest.raises(CaptureError, match="train_step"):
        qat.prepare(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50", "ResNet50V2", "DenseNet121", "NASNetMobile",
    "Xception", "VGG16",
])  # fmt: skip
def test_applications(name, tmp_path):
    size = 224 if name == "NASNetMobile" else 96
    tf_keras.utils.set_random_seed(0)
    model = getattr(tf_keras.applications, name)(weights=None, classes=10, input_shape=(size, size, 3))
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [x])
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.max_lsb < 1e-6  # of the softmax alone, in float

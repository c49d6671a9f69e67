"""Transposed convolutions of Keras: exact in LiteRT and in ONNX Runtime, for every way to cut the result."""

import keras
import numpy as np
import pytest
from keras import layers
from macs import costs, integer_share

import qat
from qat.adapters import keras as adapter
from qat.program import interpreter as reference
from support.rows import by_turns

#: kernel, strides, padding, output padding.
GEOMETRIES = [
    (2, 2, "valid", None), (3, 2, "same", None), (3, 2, "valid", None), (4, 2, "same", None), (3, 1, "same", None),
    (2, 3, "same", None), (2, 3, "valid", None), ((5, 3), (2, 1), "same", None), (3, 2, "same", 0), (3, 2, "same", 1),
    (3, 2, "valid", 1), (5, 3, "same", 2),
]  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(6, 5, 7, 3)).astype(np.float32)


def net(kernel, strides, padding, extra):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 7, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.Conv2DTranspose(6, kernel, strides, padding, output_padding=extra, use_bias=False)(x)
    norm = layers.BatchNormalization()
    x = layers.ReLU()(norm(x))
    norm.moving_mean.assign(np.random.default_rng(1).normal(0, 0.1, 6))
    return keras.Model(inputs, layers.Conv2D(2, 1)(layers.Activation("softplus")(x)))


@pytest.mark.parametrize(("geometry", "target"), by_turns(GEOMETRIES), ids=str)
def test_geometries(geometry, target, images, tmp_path):
    model = net(*geometry)
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(images), model(images), atol=2e-6)
    qat.calibrate(prepared, [images])
    assert prepared.plan.floats() == {}
    # Traced for one target and eagerly for the other: the training step is the same, and tracing is slow.
    prepared.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=target == "onnxruntime")
    assert np.isfinite(prepared.train_on_batch(images, np.zeros(model(images).shape, np.float32)))
    path = tmp_path / ("m.tflite" if target == "litert" else "m.onnx")
    artifact = qat.export(prepared, path, verify=[images[:1], images])  # of any batch
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    expected = reference.run(adapter.lower(prepared), images)
    for name, integers in adapter.grid_values(prepared, images).items():
        np.testing.assert_array_equal(integers, expected[name], err_msg=name)


def test_gradients_are_those_of_the_float_layer(images):
    model = net(3, 2, "same", None)
    prepared = qat.calibrate(qat.prepare(model), [images])
    before = {name: np.asarray(v).copy() for name, v in prepared.parameters.items()}
    step = 1e-3
    for m in (model, prepared):
        for layer in m.layers:
            layer.trainable = not isinstance(layer, layers.BatchNormalization)
        m.compile(keras.optimizers.SGD(step), "mse")
        m.train_on_batch(images, np.zeros(model(images).shape, np.float32))
    weight = next(p for p in before if "conv2d_transpose" in p and p.endswith("kernel"))
    moved = np.asarray(prepared.parameters[weight]) - before[weight]
    layer = next(layer for layer in model.layers if isinstance(layer, layers.Conv2DTranspose))
    # Folded into the weight: w' = w g, of which the gradient is that of w over g.
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    factor = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    original = before[weight] / factor[:, None]
    theirs = (np.asarray(layer.kernel) - original) / factor[:, None]
    assert np.corrcoef(moved.ravel(), theirs.ravel())[0, 1] > 0.98


def test_the_artifact_holds_one_integer_kernel(images, tmp_path):
    prepared = qat.calibrate(qat.prepare(net(4, 2, "same", None)), [images])
    path = qat.export(prepared, tmp_path / "m.tflite").path
    counted = costs(path)
    assert [cost.op for cost in counted] == ["CONV_2D", "TRANSPOSE_CONV", "CONV_2D"]
    assert integer_share(counted) == 1.0

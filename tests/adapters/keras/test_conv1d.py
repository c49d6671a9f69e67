"""Signals of one dimension and grouped convolutions in Keras: on the integer grid, exact in both runtimes."""

import keras
import numpy as np
import pytest
from keras import layers as L

import qat
from qat.adapters import keras as adapter
from qat.exporters.inspection import inspect
from qat.program import interpreter as reference
from support.rows import by_turns

NORM = {"use_bias": False}


def normed(layer):
    return lambda x: L.ReLU()(L.BatchNormalization()(layer(x)))


#: What follows a convolution of a signal of 12 places and 4 channels.
SIGNALS = {
    "conv": normed(L.Conv1D(6, 3, padding="same", **NORM)),
    "conv with strides": normed(L.Conv1D(6, 3, strides=2, **NORM)),
    "causal": L.Conv1D(6, 3, dilation_rate=2, padding="causal", activation="relu"),
    "grouped": L.Conv1D(6, 3, groups=2),
    "depthwise": normed(L.DepthwiseConv1D(3, padding="same", depth_multiplier=2, **NORM)),
    "separable": L.SeparableConv1D(5, 3, padding="same", activation="tanh"),
    "transposed": normed(L.Conv1DTranspose(5, 4, 2, padding="same", **NORM)),
    "transposed with output padding": L.Conv1DTranspose(5, 3, 2, output_padding=1),
    "max pooling": L.MaxPooling1D(3, 2, padding="same"),
    "average pooling": L.AveragePooling1D(2),
    "padding": L.ZeroPadding1D((1, 2)),
    "residual": lambda x: L.Add()([x, L.Conv1D(4, 3, padding="same")(x)]),
    "joined": lambda x: L.Concatenate()([x, L.Conv1D(4, 3, padding="same")(x)]),
    "joined along the signal": lambda x: L.Concatenate(axis=1)([x, L.Conv1D(4, 3)(x)]),
}
#: What follows a convolution of an image of 6 x 6 places and 4 channels.
IMAGES = {
    "grouped": L.Conv2D(6, 3, groups=2, padding="same", activation="relu"),
    "grouped with strides": normed(L.Conv2D(8, 3, 2, groups=4, **NORM)),
    "grouped and dilated": L.Conv2D(6, 2, groups=2, dilation_rate=2),
    "a filter for each channel": L.Conv2D(8, 3, groups=4),
}
#: Whose training step is traced, which is slow: one for each kind of operator that the others consist of.
TRACED = {"causal", "grouped with strides", "separable", "transposed", "max pooling", "average pooling", "residual", "joined"}
GRAPHS = {**{("signal", name): block for name, block in SIGNALS.items()}, **{("image", n): b for n, b in IMAGES.items()}}


@pytest.mark.parametrize(
    ("name", "target"), by_turns(GRAPHS), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_artifact_equals_the_trained_model(name, target, tmp_path):
    keras.utils.set_random_seed(0)
    shape, conv, mean = ((12, 3), L.Conv1D, L.GlobalAveragePooling1D) if name[0] == "signal" else ((6, 6, 3), L.Conv2D, None)
    samples = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    inputs = keras.Input(shape)
    x = GRAPHS[name](conv(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, L.Dense(3)(mean()(x) if mean else L.Flatten()(x)))
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-0.2, 0.2, layer.moving_mean.shape[0]))
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(samples), model(samples), atol=2e-6)
    qat.calibrate(prepared, [samples])
    assert prepared.plan.floats() == {}
    assert "batch_norm" not in {p.op.kind for p in prepared.plan.ops}
    eagerly = target == "onnxruntime" or name[1] not in TRACED
    prepared.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=eagerly)
    assert np.isfinite(prepared.train_on_batch(samples, np.zeros((8, 3), np.float32)))
    artifact = qat.export(prepared, tmp_path / ("m.tflite" if target == "litert" else "m.onnx"), verify=[samples])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    expected = reference.run(adapter.lower(prepared), samples)
    for value, integers in adapter.grid_values(prepared, samples).items():
        np.testing.assert_array_equal(integers, expected[value], err_msg=value)


def test_parameters_keep_their_shapes_and_the_axis_is_kept_between(tmp_path):
    inputs = keras.Input((12, 3))
    x = normed(L.Conv1D(6, 3, **NORM))(normed(L.SeparableConv1D(4, 3, **NORM))(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    samples = np.random.default_rng(0).normal(size=(8, 12, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [samples])
    assert [p.op.kind for p in prepared.plan.ops] == ["reshape", "depthwise_conv2d", "conv2d", "conv2d", "mean", "dense"]
    shapes = {v.path: tuple(v.shape) for v in model.variables if "kernel" in v.path}
    assert {name: tuple(v.shape) for name, v in prepared.parameters.items() if "kernel" in name} == shapes
    prepared.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded.predict(samples, verbose=0), prepared.predict(samples, verbose=0))


def test_gradients_of_groups_are_those_of_the_float_layer():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, L.Conv2D(8, 3, groups=2)(inputs))
    samples = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [samples])
    before = np.asarray(model.layers[1].kernel).copy()
    for m in (model, prepared):
        m.compile(keras.optimizers.SGD(0.1), "mse")
        m.train_on_batch(samples, np.zeros((8, 4, 4, 8), np.float32))
    (kernel,) = (v for name, v in prepared.parameters.items() if "kernel" in name)
    mine, theirs = (np.asarray(v) - before for v in (kernel, model.layers[1].kernel))
    assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.98


def test_the_artifact_runs_groups_in_the_delegate(tmp_path):
    inputs = keras.Input((6, 6, 4))
    prepared = qat.prepare(keras.Model(inputs, L.Conv2D(8, 3, groups=2)(inputs)))
    samples = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype(np.float32)
    path = qat.export(qat.calibrate(prepared, [samples]), tmp_path / "m.tflite").path
    assert [weight.shape for weight in inspect(path).weights] == [(8, 3, 3, 2)]

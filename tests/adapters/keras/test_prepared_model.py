"""The Keras adapter, through the public calls and in LiteRT."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import qat
from qat.adapters import keras as adapter
from qat.adapters.keras.capture.unrolling import recurrent
from qat.errors import CalibrationError, CaptureError, ConfigError, DataError, ExportError
from qat.program import interpreter as reference
from qat.runs.zoo_keras import mobilenet_tiny
from qat.runtimes import open_session


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def float_model(images):
    keras.utils.set_random_seed(0)
    model = mobilenet_tiny()
    for _ in range(5):
        model(images, training=True)
    return model


@pytest.fixture
def prepared(float_model, images):
    return qat.calibrate(qat.prepare(float_model), [images])


def train(model, images, steps=3):
    model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return [float(model.train_on_batch(images, np.arange(len(images)) % 10)) for _ in range(steps)]


def outputs(model, images):
    return np.asarray(model(images, training=False))


def small(*middle, shape=(8, 8, 1)):
    inputs = keras.Input(shape)
    x = inputs
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, x)


def exported(model, images, path, **options):
    prepared = qat.calibrate(qat.prepare(model), [images])
    return prepared, qat.export(prepared, path, verify=[images], **options)


def test_prepared_model_computes_the_folded_float_model_until_calibrated(float_model, images):
    np.testing.assert_allclose(outputs(qat.prepare(float_model), images), outputs(float_model, images), atol=1e-4)


@pytest.mark.slow
def test_preparing_and_training_leave_the_float_model_as_it_was(float_model, images):
    before = [w.copy() for w in float_model.get_weights()]
    train(qat.calibrate(qat.prepare(float_model), [images]), images)
    assert all(np.array_equal(a, b) for a, b in zip(before, float_model.get_weights(), strict=True))


def test_trained_artifact_equals_the_model_in_every_output(prepared, images, tmp_path):
    losses = train(prepared, images, steps=8)
    assert losses[-1] < losses[0]
    expected = outputs(prepared, images)
    for io_dtype in ("int8", "uint8", "float32"):
        artifact = qat.export(prepared, tmp_path / f"{io_dtype}.tflite", verify=[images], io_dtype=io_dtype)
        assert artifact.parity.exact == 1.0
        session = open_session(artifact.path)
        assert {i.dtype for i in (*session.inputs, *session.outputs)} == {io_dtype}
        np.testing.assert_array_equal(session.run(images)[0], expected)


def test_every_tensor_of_the_artifact_is_an_integer(prepared, images, tmp_path):
    qat.export(prepared, tmp_path / "m.tflite")
    kinds = {np.dtype(d["dtype"]).name for d in Interpreter(str(tmp_path / "m.tflite")).get_tensor_details()}
    assert kinds == {"int8", "int32"}
    assert not {"RELU", "RELU6", "QUANTIZE", "DEQUANTIZE", "MUL"} & set(open_session(tmp_path / "m.tflite").ops())


def test_model_equals_the_numpy_reference_at_every_kernel(prepared, images):
    train(prepared, images)
    expected = reference.run(adapter.lower(prepared), images)
    for name, value in adapter.grid_values(prepared, images).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_graph_mode_equals_eager_mode(prepared, images):
    train(prepared, images)
    np.testing.assert_array_equal(prepared.predict(images, verbose=0), outputs(prepared, images))
    np.testing.assert_array_equal(np.asarray(tf.function(prepared)(images, training=False)), outputs(prepared, images))


def test_many_batches_of_a_shape_run_as_a_graph_that_follows_the_weights(tmp_path, monkeypatch):
    data = list(np.random.default_rng(0).normal(size=(40, 64, 8, 8, 1)).astype(np.float32))
    model, runs = qat.calibrate(qat.prepare(small(layers.Conv2D(4, 3), layers.ReLU())), data[:2]), []
    run = type(model).run
    monkeypatch.setattr(type(model), "run", lambda *args, **options: runs.append(args) or run(*args, **options))
    first = qat.export(model, tmp_path / "first.tflite", verify=data)
    model.set_weights([-2 * w if w.ndim == 4 else w for w in model.get_weights()])
    second = qat.export(model, tmp_path / "second.tflite", verify=data)
    assert first.parity.exact == second.parity.exact == 1.0
    assert len(runs) < 20


def test_saved_model_loads_with_every_bit(prepared, images, tmp_path):
    train(prepared, images)
    prepared.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs(loaded, images), outputs(prepared, images))
    assert qat.export(loaded, tmp_path / "m.tflite", verify=[images]).parity.exact == 1.0


def test_fit_evaluate_and_tf_data(prepared, images):
    labels = np.arange(32) % 10
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    prepared.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = prepared.fit(data, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    assert np.isfinite(prepared.evaluate(data, verbose=0)).all()


@pytest.mark.slow
def test_finetune_keeps_the_best_epoch_and_its_ranges(prepared, images, tmp_path):
    batches = [(images[i : i + 8], np.arange(i, i + 8) % 10) for i in range(0, 32, 8)]
    history = qat.finetune(prepared, batches, batches, epochs=3, learning_rate=0.02, checkpoint_dir=tmp_path, progress=False)
    assert [e.number for e in history.epochs] == [1, 2, 3]
    assert history.steps == 12
    best = history.epochs[history.best_epoch - 1].accuracy
    assert best == max(e.accuracy for e in history.epochs)
    loaded = qat.load_prepared(prepared, tmp_path / "best.keras")
    np.testing.assert_array_equal(outputs(loaded, images), outputs(prepared, images))
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[images]).parity.exact == 1.0


def test_frozen_layer_stays_frozen(images):
    conv = layers.Conv2D(4, 3, name="frozen")
    conv.trainable = False
    model = small(conv, layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(10))
    prepared = qat.calibrate(qat.prepare(model), [images])
    before = np.asarray(prepared.parameters["frozen/kernel"]).copy()
    train(prepared, images)
    np.testing.assert_array_equal(np.asarray(prepared.parameters["frozen/kernel"]), before)


def test_shared_layer_is_trained_once(images, tmp_path):
    shared, inputs = layers.Conv2D(1, 3, padding="same", activation="relu"), keras.Input((8, 8, 1))
    x = shared(shared(inputs))
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
    prepared, artifact = exported(model, images, tmp_path / "m.tflite")
    assert len(prepared.parameters) == 4
    assert artifact.parity.exact == 1.0


def test_nested_and_sequential_models(images, tmp_path):
    block = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    model = keras.Sequential([keras.Input((8, 8, 1)), block, layers.Flatten(), layers.Dense(10)])
    prepared, artifact = exported(model, images, tmp_path / "m.tflite")
    assert artifact.parity.exact == 1.0
    assert not prepared.plan.floats()


def test_several_inputs_and_outputs(images, tmp_path):
    a, b = keras.Input((8, 8, 1), name="a"), keras.Input((8, 8, 1), name="b")
    x = layers.Concatenate()([layers.Conv2D(2, 3)(a), layers.Conv2D(2, 3)(b)])
    y = layers.GlobalAveragePooling2D()(x)
    model = keras.Model([a, b], [layers.Dense(3, name="first")(y), layers.Dense(2, name="second")(y)])
    prepared = qat.calibrate(qat.prepare(model), [((images, images[::-1]), None)])
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[((images, images[::-1]), None)])
    assert artifact.parity.exact == 1.0
    got = open_session(artifact.path).run(images, images[::-1])
    for have, want in zip(got, prepared([images, images[::-1]], training=False), strict=True):
        np.testing.assert_array_equal(have, np.asarray(want))


L = keras.layers
RECURRENT = {
    "LSTM": lambda: L.LSTM(5),
    "unrolled": lambda: L.LSTM(5, unroll=True),
    "GRU": lambda: L.GRU(5),
    "bidirectional": lambda: L.Bidirectional(L.GRU(5, reset_after=False)),
    "dropout": lambda: L.LSTM(5, dropout=0.2, recurrent_dropout=0.1, unroll=True),
    "cells": lambda: L.RNN([L.SimpleRNNCell(5), L.LSTMCell(3)]),
    "behind a mask": lambda: lambda x: L.LSTM(5)(L.Masking()(x)),
    "images": lambda: lambda x: L.Flatten()(L.ConvLSTM2D(2, 2)(L.Reshape((6, 3, 2, 1))(x))),
    "gates": lambda: L.LSTM(5, recurrent_activation="hard_sigmoid", recurrent_dropout=0.1),
}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(
            name, ("litert", "onnxruntime")[i % 2], marks=() if name in ("LSTM", "bidirectional", "images") else pytest.mark.slow
        )
        for i, name in enumerate(RECURRENT)
    ]
    + [("GRU", "litert"), ("gates", "onnxruntime")]
    + [*(pytest.param(name, "onnxruntime", marks=pytest.mark.slow) for name in ("LSTM", "dropout"))],
)
def test_a_recurrent_layer_stays_float_and_is_written_without_its_loop(name, target, tmp_path):
    keras.utils.set_random_seed(0)
    data = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, L.Dense(3)(RECURRENT[name]()(L.Dense(6, activation="relu")(inputs))))
    prepared = qat.calibrate(qat.prepare(model, target=target), [data])
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[data])
    assert artifact.parity.max_lsb <= 1
    assert all(name in ("unrolled", "dropout") or not each.unroll for layer in prepared.float_layers for each in recurrent(layer))


@pytest.mark.parametrize("io_dtype", ["int8", "float32"])
def test_unsupported_layer_stays_float_with_a_notice(images, tmp_path, caplog, io_dtype):
    model = small(
        layers.Conv2D(4, 3),
        layers.Lambda(lambda x: 0.2 * keras.ops.cumsum(x, 2)),
        layers.Conv2D(4, 3),
        layers.Flatten(),
        layers.Dense(10),
        layers.Softmax(),
    )
    with caplog.at_level(logging.WARNING, "qat"):
        prepared, artifact = exported(model, images, tmp_path / "m.tflite", io_dtype=io_dtype)
    assert "stay float" in caplog.text
    assert "Cumsum" in caplog.text
    assert artifact.parity.top1_agreement == 1.0
    assert artifact.parity.mean_lsb < 0.1
    ops = open_session(artifact.path).ops()
    assert (ops["CONV_2D"], ops["FULLY_CONNECTED"], ops["SOFTMAX"]) == (2, 1, 1)
    train(prepared, images)


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(1, 5),
    out=st.integers(1, 5),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    padding=st.sampled_from(["same", "valid"]),
    kind=st.sampled_from(["conv", "depthwise", "dense"]),
    activation=st.sampled_from([None, "relu", "relu6"]),
    bias=st.booleans(),
    recipe=st.sampled_from(["static_wi8_ai8", "static_wi8_ai8_per_tensor"]),
    seed=st.integers(0, 2**16),
)
def test_one_layer_equals_the_reference_and_litert(
    tmp_path_factory, channels, out, kernel, stride, padding, kind, activation, bias, recipe, seed
):
    keras.utils.set_random_seed(seed)
    options = {"use_bias": bias, "activation": activation, "bias_initializer": "normal"}
    layer = {
        "conv": lambda: layers.Conv2D(out, kernel, stride, padding, **options),
        "depthwise": lambda: layers.DepthwiseConv2D(kernel, stride, padding, **options),
        "dense": lambda: layers.Dense(out, **options),
    }[kind]()
    shape = (channels,) if kind == "dense" else (7, 7, channels)
    x = 3 * np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(small(layer, shape=shape), recipe=recipe), [x])
    expected = reference.run(adapter.lower(prepared), x)
    for name, value in adapter.grid_values(prepared, x).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    path = tmp_path_factory.mktemp("layer") / "m.tflite"
    assert qat.export(prepared, path, verify=[x]).parity.exact == 1.0


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.Add()([layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3)(x)]),
        lambda x: layers.ReLU()(layers.Add()([layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3)(x)])),
        lambda x: layers.Multiply()([layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3)(x)]),
        lambda x: layers.Concatenate()([layers.Conv2D(4, 3)(x), layers.Conv2D(2, 3)(x)]),
        lambda x: layers.MaxPooling2D(3, 2, "same")(layers.Conv2D(4, 3)(x)),
        lambda x: layers.AveragePooling2D(2)(layers.Conv2D(4, 3)(x)),
        lambda x: layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(4, 3)(x)),
        lambda x: layers.ZeroPadding2D(((1, 2), (0, 1)))(layers.Conv2D(4, 3)(x)),
        lambda x: layers.Reshape((9, 16))(layers.Conv2D(4, 3)(x)),
        lambda x: layers.Conv2D(4, 3, dilation_rate=2, padding="same")(x),
        lambda x: layers.Activation("relu")(layers.MaxPooling2D(2)(layers.Conv2D(4, 3)(x))),
    ],
)
def test_operator_equals_litert(images, tmp_path, build):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    prepared, artifact = exported(keras.Model(inputs, build(inputs)), images, tmp_path / "m.tflite")
    assert not prepared.plan.floats()
    assert artifact.parity.exact == 1.0


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda m, x, p: qat.prepare(Subclassed()), CaptureError, "input shape is not known: give example_inputs"),
        (lambda m, x, p: qat.prepare(m, target="litter"), ConfigError, "did you mean 'litert'"),
        (lambda m, x, p: qat.calibrate(qat.prepare(m), [x[:, :4]]), DataError, "shape"),
        (lambda m, x, p: qat.calibrate(qat.prepare(m), [x * np.nan]), DataError, "calibration batch 0 holds nan"),
        (lambda m, x, p: qat.export(qat.prepare(m), p / "m.tflite"), CalibrationError, "qat.calibrate"),
        (lambda m, x, p: train(qat.prepare(m), x), CalibrationError, "not calibrated"),
        (lambda m, x, p: qat.export(qat.calibrate(qat.prepare(m), [x]), p / "m.onnx"), ExportError, "tflite"),
        (lambda m, x, p: qat.export(qat.calibrate(qat.prepare(m), [x]), p / "m.tflite", io_dtype="int4"), ExportError, "int8"),
        (lambda m, x, p: qat.finetune(m, [(x * np.nan, np.zeros(32, int))], progress=False), DataError, "batch 0 .* NaN"),
        (lambda m, x, p: qat.finetune(m, iter([])), DataError, "no length"),
        (lambda m, x, p: qat.load_prepared(qat.prepare(m), p / "none.keras"), DataError, "no such checkpoint"),
    ],
)
def test_mistakes_end_in_one_clear_sentence(float_model, images, tmp_path, work, error, message):
    with pytest.raises(error, match=message):
        work(float_model, images, tmp_path)


def test_truncated_checkpoint_is_named(prepared, tmp_path):
    prepared.save(tmp_path / "m.keras")
    (tmp_path / "m.keras").write_bytes((tmp_path / "m.keras").read_bytes()[:200])
    with pytest.raises(DataError, match=r"m\.keras is not a whole"):
        qat.load_prepared(prepared, tmp_path / "m.keras")


def test_first_operator_that_differs_is_named(prepared, images, tmp_path, monkeypatch):
    target = next(p.op for p in prepared.plan.ops if p.op.kind == "add")
    real_predict, real_values = adapter.predict, adapter.grid_values

    def values(model, *arrays):
        found = real_values(model, *arrays)
        found[target.output] = found[target.output] + 1
        return found

    monkeypatch.setattr(adapter, "grid_values", values)
    monkeypatch.setattr(adapter, "predict", lambda model, *arrays: tuple(o + 1 for o in real_predict(model, *arrays)))
    parity = qat.export(prepared, tmp_path / "m.tflite", verify=[images]).parity
    assert parity.exact == 0.0
    assert parity.first_difference.startswith(f"add '{target.scope}': 100.0000% of its values differ, by 1 at most")


def test_float_outputs_that_the_converter_merges(images, tmp_path):
    inputs = keras.Input((8, 8, 1))
    # Two equal crops become one tensor in the converted block, and both feed integer kernels.
    crops = [layers.Cropping2D(1)(inputs) for _ in range(2)]
    x = layers.Concatenate()([layers.Conv2D(2, 3)(crop) for crop in crops])
    _, artifact = exported(keras.Model(inputs, [x, crops[0]]), images, tmp_path / "m.tflite")
    assert artifact.parity.exact == 1.0


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.Lambda(lambda t: keras.ops.cumsum(t, 2))(layers.Conv2D(4, 3)(x)),
        lambda x: keras.ops.cumsum(keras.ops.relu(layers.Conv2D(4, 3)(x)), 1),
        lambda x: layers.Conv2D(4, 3)(layers.UpSampling2D(interpolation="bilinear")(layers.Conv2D(4, 3)(x))),
    ],
)
def test_layer_without_an_integer_kernel_is_trained_saved_and_exported(images, tmp_path, build):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(build(inputs))))
    prepared = qat.calibrate(qat.prepare(model), [images])
    assert prepared.plan.floats()
    qat.finetune(prepared, [(images, np.arange(32) % 10)] * 2, observe_fraction=0.5, progress=False)
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[images])
    assert artifact.parity.top1_agreement == 1.0
    assert artifact.parity.max_lsb <= 1.0
    prepared.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=False)
    np.testing.assert_array_equal(outputs(loaded, images), outputs(prepared, images))


def test_addition_of_very_different_scales_leaves_the_delegate_and_stays_exact(tmp_path):
    """Every pair of integers, at scales where the delegate's arithmetic would differ for 21 pairs."""
    a, b = keras.Input((64, 64, 1), name="a"), keras.Input((64, 64, 1), name="b")
    large, tiny = (layers.Conv2D(1, 1, kernel_initializer="ones", name=name) for name in ("large", "tiny"))
    model = keras.Model([a, b], layers.Add(name="sum")([large(a), tiny(b)]))
    ranges = {"large": (-1.925437201, 1.972819214), "tiny": (-4.7955e-05, 4.6398e-05)}
    ranges |= {"a": ranges["large"], "b": ranges["tiny"], "sum": (-0.647195772, 1.152058336)}
    prepared = qat.calibrate(qat.prepare(model), [((np.zeros((1, 64, 64, 1), np.float32),) * 2, None)])
    for name, limits in ranges.items():
        prepared.grids[name].set_range(*limits)
    every = np.divmod(np.arange(65536), 256)
    pixels = []
    for name, integers in zip("ab", every, strict=True):
        e = prepared.grids[name].encoding
        pixels.append(((integers + e.lo) * np.float32(e.scale)).astype(np.float32).reshape(16, 64, 64, 1))
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[(tuple(pixels), None)])
    assert artifact.parity.exact == 1.0
    expected = reference.run(adapter.lower(prepared), *pixels)
    for name, value in adapter.grid_values(prepared, *pixels).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    graph = tf.function(prepared)(pixels, training=False)
    np.testing.assert_array_equal(np.asarray(graph), np.asarray(prepared(pixels, training=False)))


@pytest.mark.slow
def test_a_loss_of_one_s_own_takes_outputs_and_labels(prepared, images):
    seen = []

    def loss(out, labels):
        seen.append((out.shape, labels.shape))
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, out, from_logits=True))

    qat.finetune(prepared, [(images, np.arange(32) % 10)], loss=loss, progress=False)
    out, labels = seen[0]
    assert out[-1] == 10
    assert len(labels) < 2 or labels[-1] == 1


def test_labels_are_checked(prepared, images):
    for labels, message in (
        (np.full(32, 10), "label 10 is out of range"),
        (np.zeros((32, 2), np.int64), "one class number for each of 32"),
        (np.zeros(32), "expected class numbers"),
    ):
        with pytest.raises(DataError, match=message):
            qat.finetune(prepared, [(images, labels)], progress=False)


@pytest.mark.parametrize("name", ["net.tflite", "net.onnx"])
def test_an_input_is_an_output(name, tmp_path):
    """It was rounded in a .tflite, and refused for an .onnx."""
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    given = keras.Input((6,))
    model = keras.Model(given, [keras.layers.Dense(3)(given), given])
    prepared = qat.calibrate(qat.prepare(model, target="litert" if name.endswith("tflite") else "onnxruntime"), [x])
    np.testing.assert_array_equal(prepared(x)[1], x)
    assert qat.export(prepared, tmp_path / name, verify=[x]).parity.exact == 1.0


def test_an_array_that_no_input_reaches_is_refused():
    class Numbers(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = keras.layers.Dense(3)

        def call(self, x):
            return self.layer(x), keras.ops.arange(5)

    with pytest.raises(qat.QatError, match=r"returns an array that no input reaches"):
        qat.prepare(Numbers(), np.zeros((2, 6), np.float32))

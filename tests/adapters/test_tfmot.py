"""``tf_keras`` models through tensorflow-model-optimization, by the same calls."""

import numpy as np
import pytest
import tf_keras
from tf_keras import layers

import qat
from qat.errors import CalibrationError, CaptureError, ConfigError, DataError, ExportError
from qat.runs import datasets as load
from qat.runtimes import open_session
from qat.trainers.metrics import METRICS, measure


def evaluate(model, data):
    return measure([METRICS["top1"]], ((model.predict_on_batch(x), y) for x, y in data))["top1"]


@pytest.fixture(scope="module")
def digits():
    return load.digits()


@pytest.fixture(scope="module")
def model(digits):
    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    y = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    model = tf_keras.Model(inputs, layers.Dense(10)(x))
    data = digits.batches("train", 32, shuffle=0)
    qat.finetune(model, data, digits.batches("validation", 32), epochs=6, learning_rate=0.1, progress=False)
    return model


@pytest.mark.slow
def test_from_float_to_verified_artifact(model, digits, tmp_path):
    test = digits.batches("test", 100)
    samples = list(digits.batches("train", 64, limit=512))
    prepared = qat.calibrate(qat.prepare(model, engine="tfmot"), samples)
    assert evaluate(prepared, test) > evaluate(model, test) - 3
    options = {"epochs": 1, "checkpoint_dir": tmp_path, "progress": False}
    history = qat.finetune(prepared, digits.batches("train", 32, shuffle=0), digits.batches("validation", 32), **options)
    assert history.epochs[0].accuracy > 70
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=test)
    assert (artifact.tool, artifact.framework) == ("tfmot", "tf_keras")
    assert artifact.parity.top1_agreement > 0.98
    assert artifact.parity.max_lsb <= 2.5
    assert {i.dtype for i in open_session(artifact.path).inputs} == {"int8"}
    again = qat.load_prepared(qat.prepare(model, engine="tfmot"), tmp_path / "best.weights.h5")
    assert evaluate(again, test) == evaluate(prepared, test)


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda m, p: qat.prepare(m, recipe="static_wi8_ai8_per_tensor", engine="tfmot"), ConfigError, "Keras 3"),
        (lambda m, p: qat.prepare(m, target="onnxruntime", engine="tfmot"), ConfigError, "load the model with Keras 3"),
        (lambda m, p: qat.plan(qat.prepare(m, engine="tfmot")), CaptureError, "no plan"),
        (lambda m, p: qat.export(qat.prepare(m, engine="tfmot"), p / "m.tflite"), CalibrationError, "qat.calibrate"),
        (lambda m, p: qat.calibrate(qat.prepare(m, engine="tfmot"), []), DataError, "no samples"),
        (lambda m, p: qat.calibrate(qat.prepare(m, engine="tfmot"), [np.full((1, 8, 8, 1), np.nan)]), DataError, "nan"),
    ],
)
def test_mistakes(model, tmp_path, work, error, message):
    with pytest.raises(error, match=message):
        work(model, tmp_path)


def test_onnx_is_refused(model, tmp_path):
    prepared = qat.calibrate(qat.prepare(model, engine="tfmot"), [np.zeros((1, 8, 8, 1), np.float32)])
    with pytest.raises(ExportError, match=r"\.tflite"):
        qat.export(prepared, tmp_path / "m.onnx")


def test_layer_that_tfmot_refuses(tmp_path):
    inputs = tf_keras.Input((8, 8, 1))
    refused = tf_keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs))
    with pytest.raises(CaptureError, match="Keras 3"):
        qat.prepare(refused, engine="tfmot")


def test_a_layer_that_makes_tfmot_stumble_is_refused_in_one_sentence():
    inputs = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    model = tf_keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.ReLU(6.0)(x + 3.0) * x)))
    refused = r"^tfmot does not take this model \([^\n]*\): load it with Keras 3 \(import keras\) instead \(engine='tfmot'\)$"
    with pytest.raises(CaptureError, match=refused):
        qat.prepare(model, engine="tfmot")

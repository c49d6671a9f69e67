"""PTQ baselines by the tools themselves."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import DataError, ExportError
from qat.runtimes import open_session

SAMPLES = [np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype(np.float32)]


def keras_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def torch_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).eval()


def test_keras_baselines_run_and_resemble_the_float_model(tmp_path):
    found = {b.name: b for b in qat.ptq_baselines(keras_model(), SAMPLES, tmp_path)}
    assert set(found) == {
        "float", "tflite_dynamic", "tflite_float16", "tflite_int8", "tflite_uint8_io",
        "aeq_dynamic_wi8_afp32", "aeq_weight_only_wi8_afp32", "aeq_static_wi8_ai8",
    }  # fmt: skip
    assert not [b.error for b in found.values() if b.error]
    reference = open_session(found["float"].path).run(*SAMPLES)[0]
    for b in found.values():
        got = open_session(b.path).run(*SAMPLES)[0]
        # The median: some tools cut the tails of an activation's range.
        assert np.median(np.abs(got - reference)) < 0.05 * np.abs(reference).max(), b.name
    session = open_session(found["tflite_uint8_io"].path)
    assert (session.inputs[0].dtype, session.outputs[0].dtype) == ("uint8", "uint8")


def test_torch_baselines_run_and_resemble_the_float_model(tmp_path):
    samples = [SAMPLES[0].transpose(0, 3, 1, 2).copy()]
    found = {b.name: b for b in qat.ptq_baselines(torch_model(), samples, tmp_path)}
    assert set(found) == {
        "float", "onnxruntime_dynamic", "onnxruntime_static_minmax", "onnxruntime_static_entropy",
        "onnxruntime_static_percentile",
    }  # fmt: skip
    assert not [b.error for b in found.values() if b.error]
    reference = open_session(found["float"].path).run(*samples)[0]
    for b in found.values():
        got = open_session(b.path).run(*samples)[0]
        assert np.median(np.abs(got - reference)) < 0.05 * np.abs(reference).max(), b.name


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match="no calibration samples"):
        qat.ptq_baselines(torch_model(), [], tmp_path)
    (tmp_path / "torch_float.onnx").write_bytes(b"precious")
    with pytest.raises(ExportError, match="exists already"):
        qat.ptq_baselines(torch_model(), [SAMPLES[0].transpose(0, 3, 1, 2).copy()], tmp_path)
    assert (tmp_path / "torch_float.onnx").read_bytes() == b"precious"

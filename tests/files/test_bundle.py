"""`qat quantize` on MediaPipe's bundles: each model by its own recipe, the rest byte for byte."""

import io
import json
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import qat
from qat.errors import ConfigError, DataError, ExportError, QatError
from qat.sources.bundle import models_of
from qat.system.zip_entries import read_entries
from support.command_line import CommandLine
from support.tflite_files import TFLiteFile

RANDOM = np.random.default_rng(0)


def dense(path, inputs, outputs):
    """Write a small float .tflite: two fully connected layers."""
    file = TFLiteFile()
    x = file.input((1, inputs), free=True)
    for size, activation in ((16, 1), (outputs, 0)):
        fan_in = inputs if size == 16 else 16
        weight = file.constant(RANDOM.normal(0, fan_in**-0.5, (size, fan_in)).astype(np.float32))
        bias = file.constant(RANDOM.normal(size=size).astype(np.float32))
        x = file.operator("FULLY_CONNECTED", [x, weight, bias], options="FullyConnected", fusedActivationFunction=activation)
    file.save(path, x)
    return path


@pytest.fixture
def bundle(tmp_path):
    inner, outer = io.BytesIO(), tmp_path / "gestures.task"
    with zipfile.ZipFile(inner, "w") as archive:
        for name, sizes in (("hand_detector.tflite", (8, 4)), ("hand_landmarks_detector.tflite", (8, 6))):
            archive.writestr(name, dense(tmp_path / name, *sizes).read_bytes())
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("hand_landmarker.task", inner.getvalue())
        archive.writestr("labels.txt", "open\nclosed")
        archive.writestr("embedder.tflite", dense(tmp_path / "embedder.tflite", 5, 3).read_bytes())
    return outer


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, size in (("hand_detector", 8), ("hand_landmarks_detector", 8), ("embedder", 5)):
        np.savez(folder / f"{name}.npz", input_0=RANDOM.normal(size=(160, size)).astype(np.float32))
    return folder


def types_of(raw):
    interpreter = Interpreter(model_content=raw)
    return {tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}


@pytest.mark.slow
def test_each_model_by_its_own_recipe(bundle, data, tmp_path, capfd):
    command = CommandLine(tmp_path, capfd)
    recipe = "hand_detector=int8,hand_landmarks_detector=fp16,embedder=float"
    done = command("quantize", bundle, "--data", data, "--recipe", recipe, "--json")
    assert done.returncode == 0, done.stderr
    (file,) = json.loads(done.stdout)["files"]
    assert file["path"].endswith("gestures_fp16_int8.task")
    names = [part["source"].rpartition("/")[2] for part in file["parts"]]
    assert names == ["hand_detector.tflite", "hand_landmarks_detector.tflite"]
    assert file["parts"][0]["exact"] == 1
    before, after = (models_of(path.read_bytes(), "it") for path in (bundle, tmp_path / "gestures_fp16_int8.task"))
    assert list(before) == list(after)
    assert "int8" in types_of(after["hand_landmarker.task/hand_detector.tflite"])
    assert "float16" in types_of(after["hand_landmarker.task/hand_landmarks_detector.tflite"])
    assert after["embedder.tflite"] == before["embedder.tflite"]
    (labels,) = (e for e in read_entries((tmp_path / "gestures_fp16_int8.task").read_bytes(), "it") if e.name == "labels.txt")
    assert labels.content == b"open\nclosed"
    table = command("quantize", bundle, "--data", data, "--force")
    assert table.returncode == 0, table.stderr
    assert "gestures_int8.task/embedder.tflite" in table.stdout


@pytest.mark.slow
def test_data_by_the_models_names(bundle, tmp_path):
    arrays = {"hand_detector": 8, "hand_landmarks_detector": 8, "embedder": 5}
    named = {name: RANDOM.normal(size=(64, size)).astype(np.float32) for name, size in arrays.items()}
    made = qat.quantize(bundle, named, out=tmp_path / "out")
    assert made.path == tmp_path / "out" / "gestures_int8.task"
    assert len(made.parts) == 3
    assert made.exact == 1
    del named["embedder"]
    with pytest.raises(DataError, match="embedder"):
        qat.quantize(bundle, named, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_mistakes(bundle, data, tmp_path):
    with pytest.raises(ConfigError, match=r"no model 'hand_detectr' \(did you mean 'hand_detector'\?\)"):
        qat.quantize(bundle, data, recipe="hand_detectr=int8")
    with pytest.raises(ConfigError, match="every model of the bundle stays float"):
        qat.quantize(bundle, data, recipe="hand_detector=float,hand_landmarks_detector=float,embedder=float")
    with pytest.raises(DataError, match="no such file"):
        qat.quantize(tmp_path / "none.task", data)
    (tmp_path / "half.task").write_bytes(bundle.read_bytes()[:500])
    with pytest.raises(DataError, match="zip cannot be read"):
        qat.quantize(tmp_path / "half.task", data)
    (tmp_path / "gestures_int8.task").write_bytes(b"mine")
    with pytest.raises(ExportError, match="exists already"):
        qat.quantize(bundle, data)
    assert (tmp_path / "gestures_int8.task").read_bytes() == b"mine"


def test_a_bad_model_is_named_by_its_place_in_the_bundle(data, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.task", "w") as archive:
        archive.writestr("embedder.tflite", b"\0\0\0\0TFL3 and nothing else")
    with pytest.raises(QatError, match=r"bad\.task: 'embedder\.tflite': ") as error:
        qat.quantize(tmp_path / "bad.task", data)
    assert "/0/" not in str(error.value)

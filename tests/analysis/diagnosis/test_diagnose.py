"""Files that were broken on purpose, and healthy ones, from the command line and from Python."""

import json

import numpy as np
import pytest
from broken_artifacts import BROKEN, ONLY, Kit, dead_channels, plain

import qat
from support.command_line import CommandLine

#: By what the thresholds were chosen; benchmarks/diagnosis.py reports other networks, data, seeds and severities.
KITS = {"litert": Kit(target="litert"), "onnxruntime": Kit(target="onnxruntime")}
#: Less of it, for tests that are quick.
SMALL = {"width": 8, "epochs": 2}


@pytest.fixture
def command_line(tmp_path, capfd):
    return CommandLine(tmp_path, capfd)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    files = plain(Kit(target="onnxruntime", **SMALL), tmp_path_factory.mktemp("healthy"))
    np.save(files.float.parent / "x.npy", files.x)
    return files


@pytest.mark.slow
def test_a_healthy_file_gets_no_diagnosis(healthy):
    found = qat.diagnose(healthy.float, healthy.quantized, healthy.x)
    assert found.findings == () and found.first_drop is None
    assert found.facts.sqnr > 30 and found.facts.samples == 200


@pytest.mark.slow
def test_a_remedy_is_tried_and_measured(tmp_path):
    files = dead_channels(Kit(target="litert", **SMALL), tmp_path)
    found = qat.diagnose(files.float, files.quantized, files.x, attempt=True, out=tmp_path / "mended")
    assert found.cause == "dead_channels" and found.first_drop.name == "relu_1"
    assert found.tried.after > 25 > 10 > found.tried.before
    assert found.tried.path == str(tmp_path / "mended" / "torch_float_int8.tflite")
    json.dumps(found.to_dict())


def test_the_command_exits_0_with_a_document(command_line, healthy):
    asked = ("diagnose", healthy.float, healthy.quantized, "--data", healthy.float.parent / "x.npy", "--json", "-o", "found")
    done = command_line(*asked)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    page = (command_line.folder / "found" / "report.html").read_text()
    nodes = json.loads((command_line.folder / "found" / "model_explorer.json").read_text())["results"]
    quality = {step["quantized_name"]: step["sqnr"] for step in document["steps"]}
    assert nodes == {name: {"value": value} for name, value in quality.items() if value is not None} and len(nodes) > 2
    assert "SQNR along the network" in page and "relu_1" in page
    assert json.loads((command_line.folder / "found" / "diagnosis.json").read_text()) == {
        key: value for key, value in document.items() if key != "files"
    }
    again = command_line(*asked)
    assert again.returncode == 2 and "exists" in again.stderr
    assert document["cause"] is None and document["samples"] == 200 and len(document["steps"]) == 5


def _mistakes(folder, healthy):
    (folder / "half.onnx").write_bytes(healthy.quantized.read_bytes()[:500])
    np.save(folder / "wide.npy", np.zeros((8, 3, 28, 28), np.float32))
    np.save(folder / "nan.npy", np.full((8, 1, 28, 28), np.nan, np.float32))
    x = healthy.float.parent / "x.npy"
    return {
        "no such file: gone.onnx": (healthy.float, "gone.onnx", x),
        "half.onnx is no ONNX model, or is truncated": (healthy.float, folder / "half.onnx", x),
        "have the shape (8, 3, 28, 28)": (healthy.float, healthy.quantized, folder / "wide.npy"),
        "values that are not finite": (healthy.float, healthy.quantized, folder / "nan.npy"),
        "is quantized: name the float file": (healthy.quantized, healthy.float, x),
        "is a float file: nothing in it is quantized": (healthy.float, healthy.float, x),
    }


@pytest.mark.parametrize("number", range(6))
def test_a_mistake_ends_in_one_sentence(tmp_path, command_line, healthy, number):
    said, (float_file, int8_file, data) = list(_mistakes(tmp_path, healthy).items())[number]
    done = command_line("diagnose", float_file, int8_file, "--data", data)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_files_of_two_models_are_refused(tmp_path, healthy):
    import torch

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3)).eval()
    other = qat.calibrate(qat.prepare(net, healthy.x[:2]), [healthy.x[:32]])
    qat.export(other, tmp_path / "other.onnx")
    with pytest.raises(qat.QatError, match=r"is not of the model of"):
        qat.diagnose(healthy.float, tmp_path / "other.onnx", healthy.x)


@pytest.mark.slow
@pytest.mark.parametrize("target", KITS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_was_broken_on_purpose_is_named(tmp_path, name, target):
    if ONLY.get(name, target) != target:
        pytest.skip("the format cannot have this fault")
    cause, make = BROKEN[name]
    files = make(KITS[target], tmp_path)
    assert qat.diagnose(files.float, files.quantized, files.x).cause == cause

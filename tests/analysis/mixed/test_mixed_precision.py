"""The call and the command: what is predicted, built, measured and written."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.captured import _traced
from qat.errors import CaptureError, ConfigError, DataError, ExportError
from qat.planning.recipe import load_recipe
from support.command_line import CommandLine, tiny_run
from support.nets import digits, layout, net

INT8, INT4, FLOAT16 = "static_wi8_ai8", "weightonly_wi4_afp32", "float16"


def trained(framework):
    """Return a net that knows the digits a little, and two batches of them."""
    model = net(framework)
    data = [*digits().batches("train", 64, layout(framework))]
    qat.finetune(model, data, epochs=4, learning_rate=1e-2, progress=False)
    return model, data[:2]


def check_result(found, folder):
    """Check a result against its own artifacts."""
    costs = [point.predicted.bytes if found.minimized == "size" else point.predicted.ms for point in found.points]
    assert costs == sorted(costs)
    for point in found.points:
        assert load_recipe(point.path) == point.recipe
        assert point.measured.path.parent == folder
        assert point.measured.parity is not None
        own = {(o.layer, o.choice): o for o in found.options}
        assert point.predicted.bytes == sum(own[item].bytes for item in point.assignment.items())
        assert point.predicted.loss == pytest.approx(sum(own[item].loss for item in point.assignment.items()))
    document = found.to_dict()
    assert [p["name"] for p in document["points"]] == [p.name for p in found.points]
    assert json.loads(json.dumps(document))["decision"] in str(found).replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "target"), [("torch", "litert"), ("keras", "litert"), ("torch", "onnxruntime")])
def test_points_are_built_as_they_were_chosen(framework, target, tmp_path):
    model, data = trained(framework)
    found = qat.mixed_precision(model, data, tmp_path, target=target, points=3, max_drop=2.0, latency_runs=5)
    check_result(found, tmp_path)
    assert found.best is not None and found.best.drop <= 2.0
    cheaper = [p for p in found.points if p.predicted.bytes < found.best.predicted.bytes]
    assert all(p.drop > 2.0 for p in cheaper)
    assert found.uniform is not None and set(found.uniform.assignment.values()) == {INT8}
    assert found.uniform.measured.parity.exact == 1.0
    # A point is trained as any recipe is.
    prepared = qat.calibrate(qat.prepare(model, data[0][0], found.points[0].path, target), [x for x, _ in data])
    assert len(qat.finetune(prepared, data, epochs=1, progress=False).epochs) == 1


@pytest.mark.slow
def test_the_least_size_takes_four_bits_and_the_least_loss_none(tmp_path):
    model, data = trained("torch")
    found = qat.mixed_precision(model, data, tmp_path, choices=[INT8, INT4, FLOAT16], points=2, latency_runs=0)
    check_result(found, tmp_path)
    assert set(found.points[0].assignment.values()) == {INT4}
    assert set(found.points[-1].assignment.values()) == {FLOAT16}
    assert abs(found.points[-1].drop) < 1.0
    with pytest.raises(ExportError, match="exists already"):
        qat.mixed_precision(model, data, tmp_path, points=2)


@pytest.mark.slow
def test_given_latencies_decide(tmp_path):
    model, data = trained("torch")
    slow = {("0", INT8): 4.0, ("0", FLOAT16): 1.0, ("2", INT8): 1.0, ("2", FLOAT16): 5.0, ("5", INT8): 1.0, ("5", FLOAT16): 5.0}
    arguments = {"choices": [INT8, FLOAT16], "latency_runs": 0, "overwrite": True, "minimize": "latency", "points": 1}
    found = qat.mixed_precision(model, data, tmp_path, latencies=slow, **arguments)
    assert found.points[0].assignment == {"0": FLOAT16, "2": INT8, "5": INT8}
    assert found.points[0].predicted.ms == 3.0
    # The conversion of what the first layer writes costs more than the slow kernel.
    dear = slow | {("1", "quantize"): 10.0}
    found = qat.mixed_precision(model, data, tmp_path, latencies=dear, **arguments)
    assert found.points[0].assignment == {"0": INT8, "2": INT8, "5": INT8}
    limited = qat.mixed_precision(model, data, tmp_path, latencies=slow, max_bytes=1500, **arguments)
    assert limited.points[0].predicted.bytes <= 1500
    with pytest.raises(ConfigError, match="the least bytes are 1,368, the limit is 1,000"):
        qat.mixed_precision(model, data, tmp_path, latencies=slow, max_bytes=1000, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"minimize": "sise"}, "minimize is one of size, latency, not 'sise'"),
        ({"points": 0}, "points is 1 or more"),
        ({"max_drop": -1.0}, "max_drop is 0 or more"),
        ({"max_drop": float("nan")}, "max_drop is 0 or more"),
        ({"target": "simulated"}, "has no artifacts"),
        ({"target": "tensorrt", "minimize": "latency"}, "does not run on this machine: give latencies"),
        ({"target": "tensorrt", "max_ms": 1.0}, "does not run on this machine: give latencies"),
        ({"choices": [INT8]}, "two precisions or more"),
        ({"latencies": "none.csv"}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(arguments, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        qat.mixed_precision(nn.Linear(4, 3), [np.zeros((4, 4), np.float32)], tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_models_and_data_that_do_not_fit_are_refused(tmp_path):
    x = np.zeros((4, 4), np.float32)
    with pytest.raises(CaptureError, match="takes a float model"):
        qat.mixed_precision(qat.prepare(nn.Linear(4, 3), x), [x], tmp_path)
    with pytest.raises(DataError, match="got no data"):
        qat.mixed_precision(nn.Linear(4, 3), [], tmp_path)


@pytest.mark.slow
def test_the_command_writes_recipes_that_a_run_takes(tmp_path, capfd):
    command, config = CommandLine(tmp_path, capfd), tiny_run(tmp_path)
    options = ["--choice", INT8, "--choice", INT4, "--points", 2]
    done = command("mixed-precision", config, *options, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    folder = tmp_path / "runs" / "tiny" / "mixed_precision"
    assert json.loads((folder / "mixed_precision.json").read_text())["points"] == document["points"]
    page = (folder / "report.html").read_text()
    assert all(point["name"] in page for point in document["points"])
    assert (folder / "report_loss.png").read_bytes().startswith(b"\x89PNG")
    done = command("plan", config, "--recipe", folder / "mixed_1.yaml", "--json")
    assert json.loads(done.stdout)["recipe"] == "mixed_1"
    assert "exists already" in command("mixed-precision", config, *options).stderr
    done = command("mixed-precision", config, "--target", "litert")
    assert (done.returncode, "the configuration names the target" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_file_is_held_against_its_own_answers(tmp_path, capfd):
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    torch.onnx.export(
        model, (torch.zeros(2, 6),), tmp_path / "net.onnx", dynamic_shapes=[{0: torch.export.Dim.AUTO}], verbose=False
    )
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(128, 6)).astype(np.float32))
    command = CommandLine(tmp_path, capfd)
    choices = ["--choice", INT8, "--choice", INT4, "--points", 2]
    done = command("mixed-precision", "net.onnx", "--data", "x.npy", *choices, "--out", "made")
    assert done.returncode == 0, done.stderr
    assert "qat quantize net.onnx --data DATA --train 10m --recipe made/mixed_" in done.stdout
    found = json.loads((tmp_path / "made" / "mixed_precision.json").read_text())
    assert found["points"][0]["predicted"]["bytes"] == (6 * 16 + 16 * 4) // 2
    assert found["points"][0]["drop"] >= found["points"][-1]["drop"]
    done = command("quantize", "net.onnx", "--data", "x.npy", "--recipe", "made/mixed_1.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_model_is_captured_once_for_all_that_is_tried(tmp_path, monkeypatch):
    captures = []
    monkeypatch.setattr("qat.captured._traced", lambda *args: captures.append(args) or _traced(*args))
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    found = qat.mixed_precision(nn.Linear(4, 3), [x], tmp_path, choices=[INT8, FLOAT16], points=1, latency_runs=0)
    assert len(found.points) == len(captures) == 1

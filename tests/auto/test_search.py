"""`qat auto`: the cheapest that is good enough, on nets whose trouble is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import qat as toolkit
from qat.analysis.diagnosis.causes import CAUSES
from qat.auto import search as searching
from qat.auto.steps import STEPS
from qat.planning.recipe import load_recipe
from support.command_line import CommandLine
from support.nets import digits, layout, net

pytest.importorskip("torch")
pytest.importorskip("keras")

NETS = """
from support.nets import net

def torch_net():
    return net("torch")

def keras_net():
    return net("keras")
"""


@pytest.fixture
def qat(tmp_path, capfd):
    (tmp_path / "auto_nets.py").write_text(NETS)
    return CommandLine(tmp_path, capfd)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The weights of a net of each framework that knows the digits, as files."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for framework, suffix in (("torch", "safetensors"), ("keras", "weights.h5")):
        model, data = net(framework), digits(1200)
        batches = data.batches("train", 32, layout(framework), shuffle=0)
        toolkit.finetune(model, batches, epochs=4, optimizer="adam", learning_rate=3e-3, progress=False)
        found[framework] = model, folder / f"{framework}.{suffix}"
        save(framework, model, found[framework][1])
    return found


def save(framework, model, path):
    from qat.runs.float_files import save as write

    write(framework, model, path)


def config_of(folder, framework, weights, more=""):
    path = folder / "run.yaml"
    path.write_text(
        f"name: net\nframework: {framework}\nmodel: {{factory: 'auto_nets:{framework}_net', weights: '{weights}'}}\n"
        f"data: {{source: digits, batch_size: 32}}\ncalibration: {{samples: 128}}\nlatency_runs: 1\n{more}"
    )
    return path


def broken(folder, model):
    """Write the weights of a PyTorch net whose float function is the same, and whose channels lie 300 times apart."""
    import copy

    import torch

    net = copy.deepcopy(model)
    factors = torch.ones(8)
    factors[::4] = 300.0
    with torch.no_grad():
        net[0].weight *= factors.reshape(-1, 1, 1, 1)
        net[0].bias *= factors
        net[2].weight /= factors.reshape(1, -1, 1, 1)
    save("torch", net, folder / "broken.safetensors")
    return folder / "broken.safetensors"


def lines(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_healthy_net_ends_at_ptq(qat, tmp_path, trained, framework):
    done = qat("auto", config_of(tmp_path, framework, trained[framework][1]), "-q")
    assert done.returncode == 0, done.stderr
    folder, suffix = tmp_path / "runs" / "net" / "auto", {"torch": "onnx", "keras": "tflite"}[framework]
    assert done.stdout.splitlines()[-1].startswith("PTQ is enough: ptq (PTQ as the configuration says) has top-1 ")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["chosen"], summary["reached"], summary["artifact"]) == ("ptq", True, f"net_int8.{suffix}")
    assert summary["decision"] == done.stdout.splitlines()[-1] == summary["results"][0]["decision"]
    assert (folder / f"net_int8.{suffix}").read_bytes() == (folder / "steps" / "ptq" / f"ptq.{suffix}").read_bytes()
    assert load_recipe(folder / "net_int8.yaml").rules == load_recipe("static_wi8_ai8").rules
    assert [line["event"] for line in lines(folder)] == ["float", "begin", "step"]
    assert "| ptq (chosen) |" in (folder / "journal.md").read_text()
    assert summary["decision"] in unescape((folder / "report.html").read_text())


@pytest.mark.slow
def test_channels_apart_under_one_scale_end_at_equalization(qat, tmp_path, trained):
    weights = broken(tmp_path, trained["torch"][0])
    config = config_of(tmp_path, "torch", weights, "recipe: static_wi8_ai8_per_tensor\nper_channel: false\n")
    done = qat("auto", config, "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    steps = {step["step"]: step for step in found["steps"]}
    assert (found["chosen"], list(steps)) == ("equalization", ["ptq", "equalization"])
    assert steps["ptq"]["verdict"] == "missed"
    assert "under one weight scale the widest channel is" in steps["equalization"]["why"]
    assert found["evidence"]["spread"] > 50 and found["evidence"]["apart"] > 50
    assert [e["name"] for e in found["results"][0]["entries"]] == ["float", "ptq", "equalization"]
    assert "# In a run's configuration beside it: equalize: true" in (tmp_path / "out" / "net_int8.yaml").read_text()


@pytest.mark.slow
def test_a_small_budget_skips_what_does_not_fit(qat, tmp_path, trained):
    weights = broken(tmp_path, trained["torch"][0])
    config = config_of(tmp_path, "torch", weights, "recipe: static_wi8_ai8_per_tensor\n")
    done = qat("auto", config, "--budget", "1s", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    late = {s["step"]: s["why"] for s in found["steps"] if "s are left" in s["why"]}
    assert set(late) >= {"equalization", "qat"}
    assert "of 1 s are left" in late["qat"]
    assert found["decision"].startswith("No step reached the goal: the best is ptq")
    assert "Not tried for want of time: equalization" in found["decision"]
    assert (tmp_path / "runs" / "net" / "auto" / "net_int8.onnx").is_file()
    more = json.loads(qat("auto", config, "--resume", "--json").stdout)  # with the default budget
    assert more["chosen"] == "equalization"
    assert [line["step"] for line in lines(tmp_path / "runs" / "net" / "auto") if line["event"] == "begin"] == [
        "ptq",
        "equalization",
    ]


TWO_BITS = """name: two
rules: [{weight: {bits: 2, symmetric: true, granularity: channel}, activation: {bits: 8}}]
"""


def two_bits(tmp_path, weights, more=""):
    """A configuration in which no method without training is enough."""
    (tmp_path / "two.yaml").write_text(TWO_BITS)
    return config_of(
        tmp_path, "torch", weights, f"recipe: two.yaml\ntraining: {{epochs: 2, optimizer: adam, learning_rate: 0.001{more}}}\n"
    )


class Killed(BaseException):
    """What no step catches."""


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(qat, tmp_path, trained, monkeypatch):
    config = two_bits(tmp_path, trained["torch"][1])
    build = searching.build

    def killed(job, data, model, step, choices, training):
        if step != "ptq":
            raise Killed
        return build(job, data, model, step, choices, training)

    with monkeypatch.context() as patch:
        patch.setattr(searching, "build", killed)
        with pytest.raises(Killed):
            qat("auto", config, "--max-drop", "20")
    folder = tmp_path / "runs" / "net" / "auto"
    before = lines(folder)
    assert before[-1]["event"] == "begin"
    done = qat("auto", config, "--max-drop", "20", "--resume")
    assert done.returncode == 0, done.stderr
    after = lines(folder)
    assert after[: len(before)] == before
    ended = [line["step"] for line in after if line["event"] == "step"]
    assert len(ended) == len(set(ended))
    assert [line["event"] for line in after].count("evidence") == 1


def test_ctrl_c_leaves_the_best_and_says_how_to_go_on(qat, tmp_path, trained, monkeypatch):
    config = two_bits(tmp_path, trained["torch"][1])
    build = searching.build

    def stopped(job, data, model, step, choices, training):
        if step != "ptq":
            raise KeyboardInterrupt
        return build(job, data, model, step, choices, training)

    monkeypatch.setattr(searching, "build", stopped)
    done = qat("auto", config, "--budget", "20m")
    assert done.returncode == 130
    assert "the best so far is ptq, " in done.stderr
    assert f"qat auto {config} --max-drop 0.5 --budget 20m --resume goes on" in done.stderr
    assert (tmp_path / "runs" / "net" / "auto" / "net_int2.onnx").is_file()


@pytest.mark.slow
def test_few_layers_in_higher_precision_are_enough(qat, tmp_path, trained, monkeypatch):
    def fails(*_):
        raise RuntimeError("not here")

    for method in ("correct_biases", "adaround", "reconstruct"):
        monkeypatch.setattr(f"qat.api.{method}", fails)
    found = json.loads(qat("auto", two_bits(tmp_path, trained["torch"][1]), "--json", "--max-drop", "6").stdout)
    assert found["chosen"] == "sensitive_layers"
    (step,) = (step for step in found["steps"] if step["step"] == "sensitive_layers")
    rules = step["choices"]["recipe"]["rules"]
    assert len(rules) > 1 and rules[0]["weight"]["bits"] == 2
    assert load_recipe(tmp_path / "runs" / "net" / "auto" / found["recipe"]).rules[1:]


@pytest.mark.slow
def test_a_step_that_fails_does_not_end_the_search(qat, tmp_path, trained, monkeypatch):
    config = two_bits(tmp_path, trained["torch"][1])

    def fails(*_):
        raise RuntimeError("no such bias")

    monkeypatch.setattr("qat.api.correct_biases", fails)
    found = json.loads(qat("auto", config, "--json", "--max-drop", "10").stdout)
    steps = {step["step"]: step for step in found["steps"]}
    assert (steps["bias_correction"]["outcome"], steps["bias_correction"]["why"]) == ("failed", "RuntimeError: no such bias")
    assert steps["adaround"]["outcome"] == "tried"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--budget", "soon"), "--budget is a time above zero"), (("--max-drop", "-1"), "--max-drop is a number")],
)
def test_a_wrong_option_is_said_before_any_work(qat, tmp_path, arguments, message):
    done = qat("auto", config_of(tmp_path, "torch", "missing.safetensors"), *arguments)
    assert (done.returncode, message in done.stderr) == (2, True)


@pytest.mark.slow
def test_without_labels_the_float_answers_are_the_right_ones(qat, tmp_path, trained):
    data = digits(400)
    np.savez(tmp_path / "d.npz", x_train=data.train_x * data.scale, x_test=data.test_x * data.scale)
    more = "training: {labels: none, teacher: float}\n"
    config = config_of(tmp_path, "torch", trained["torch"][1], more)
    source = f"data: {{source: npz, path: d.npz, batch_size: 32, mean: {data.mean}, std: {data.std}}}"
    config.write_text(config.read_text().replace("data: {source: digits, batch_size: 32}", source))
    done = qat("auto", config, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["goal"]["said"] == "top-1 at most 0.5 points below float's 100.00 %"
    assert "There are no labels: the float model's own answers are the right ones" in found["decision"]


@pytest.mark.slow
def test_a_float_file_is_a_model_too(qat, tmp_path, trained):
    import torch

    torch.onnx.export(trained["torch"][0].eval(), (torch.zeros(2, 1, 8, 8),), str(tmp_path / "net.onnx"), dynamo=False)
    data = digits(400)
    arrays = {"x_train": data.train_x, "y_train": data.train_y, "x_test": data.test_x, "y_test": data.test_y}
    np.savez(tmp_path / "d.npz", **{name: x * data.scale if x.ndim > 1 else x for name, x in arrays.items()})
    done = qat("init", "--from", "net.onnx", "--data", "d.npz", "--out", "qat.yaml", "--json")
    assert done.returncode == 0, done.stderr
    keys = {guess["key"]: guess["value"] for guess in json.loads(done.stdout)["guesses"]}
    assert (keys["model.file"], keys["framework"], keys["target"]) == ("net.onnx", "torch", "onnxruntime")
    assert "float_training.epochs" not in keys  # it has its weights
    config = tmp_path / "qat.yaml"
    config.write_text(config.read_text().replace("scale: 1.0", f"scale: 1.0\n  mean: {data.mean}\n  std: {data.std}"))
    found = json.loads(qat("auto", config, "--max-drop", "5", "--json").stdout)
    assert (found["chosen"], found["artifact"]) == ("ptq", "qat_int8.onnx")
    assert found["results"][0]["entries"][0]["top1"] > 75  # it knows the digits


def test_every_cause_that_a_step_mends_is_one_of_the_diagnosis():
    known = {cause.name for cause in CAUSES}
    assert {cause for step in STEPS for cause in step.mends} <= known


@pytest.mark.slow
def test_of_a_vit_the_residual_stream_in_float_comes_first(qat, tmp_path):
    source = Path(__file__).parents[2] / "benchmarks"
    config = tmp_path / "vit.yaml"
    config.write_text((source / "auto_vit.yaml").read_text().replace("epochs: 60", "epochs: 20"))
    (tmp_path / "auto_vit.py").write_text(
        (source / "auto_vit.py").read_text().replace("Path(__file__).parent", repr(str(source)))
    )
    found = json.loads(qat("auto", config, "--json", "--max-drop", "5").stdout)
    first, second, *_ = found["steps"]
    assert (first["step"], second["step"], found["evidence"]["cause"]) == ("ptq", "float_residual", "residual_stream")
    assert second["figures"]["score"] > first["figures"]["score"] + 20


#: The command line with two steps alone, the first and QAT.
ONLY_QAT = """
from qat.auto import search
from qat.cli import main
search.STEPS = tuple(step for step in search.STEPS if step.name in ("ptq", "qat"))
main()
"""


@pytest.mark.slow
def test_kill_9_in_a_training(tmp_path, trained):
    (tmp_path / "auto_nets.py").write_text(NETS)
    config = two_bits(tmp_path, trained["torch"][1], ", checkpoint_every: 1")
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 20"))
    command = [sys.executable, "-c", ONLY_QAT, "auto", str(config), "--max-drop", "0.5"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, *sys.path))), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = tmp_path / "runs" / "net" / "auto"
    later = folder / "checkpoints" / "qat" / "training.previous.safetensors"  # there from the first step on
    while not later.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = lines(folder)
    again = subprocess.run([*command, "--resume", "--json"], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode in (0, 1), again.stderr
    assert "continuing from step" in again.stderr
    after = lines(folder)
    assert after[: len(before)] == before
    ended = [line["step"] for line in after if line["event"] == "step"]
    assert len(ended) == len(set(ended))
    assert [step["step"] for step in json.loads(again.stdout)["steps"]] == ["ptq", "qat"]

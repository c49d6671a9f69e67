"""Weights of PyTorch's own files, and a run on data without labels."""

import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from qat.adapters import torch as adapter
from qat.errors import ConfigError
from qat.runs import float_files, float_model, run
from qat.runs.config import RunConfig
from qat.runs.job import Job
from support.command_line import CommandLine


def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_weights_that_torch_saved(tmp_path, wrap, suffix):
    saved = net()
    torch.save(wrap(saved.state_dict()), tmp_path / f"w{suffix}")
    loaded = float_files.load("torch", net(), tmp_path / f"w{suffix}")
    assert torch.equal(loaded[1].weight, saved[1].weight)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (net(), r"holds more than tensors, and unpickling that could run foreign code: save the weights alone"),
        ([1, 2], "holds no state_dict"),
        ({"0.weight": torch.zeros(2)}, "does not hold this model's weights"),
    ],
)
def test_a_file_without_weights_is_named(tmp_path, saved, message):
    torch.save(saved, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=message):
        float_files.load("torch", net(), tmp_path / "w.pth")


def test_a_factory_that_returns_nothing_is_named(tmp_path, monkeypatch):
    (tmp_path / "forgetful.py").write_text("def make():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.factory 'forgetful:make' returned None, not a model"):
        float_model.made_by("forgetful:make", {}, "model.factory")
    (tmp_path / "miscounting.py").write_text("def make():\n    return 3\n")
    with pytest.raises(ConfigError, match=r"model\.factory 'miscounting:make' returned no model: builtins\.int is neither"):
        float_model.made_by("miscounting:make", {}, "model.factory")


def test_a_damaged_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such weights file"):
        float_files.load("torch", net(), tmp_path / "w.pth")
    torch.save(net().state_dict(), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"w\.pth is not a whole file of torch\.save"):
        float_files.load("torch", net(), tmp_path / "w.pth")


def test_a_run_without_labels(tmp_path, monkeypatch):
    (tmp_path / "unlabelled_nets.py").write_text(
        "import torch\n\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    monkeypatch.setattr(sys, "path", sys.path.copy())
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x[:30])
    torch.save(net().state_dict(), tmp_path / "w.pth")
    settings = {
        "name": "r", "framework": "torch", "model": {"factory": "unlabelled_nets:make", "weights": "w.pth"},
        "data": {"source": "npz", "path": "d.npz", "batch_size": 16}, "training": {"labels": "none", "teacher": "float"},
        "ptq": False, "control": False, "latency_runs": 2,
    }  # fmt: skip
    captures, trace = [], adapter.trace
    monkeypatch.setattr(adapter, "trace", lambda *args, **options: captures.append(args) or trace(*args, **options))
    report = run.execute(Job.of(RunConfig.model_validate(settings), tmp_path, None, Console(quiet=True)))
    assert len(captures) == 1  # the plan, the check of the scaling and the prepared model share it
    assert (tmp_path / "runs" / "r" / "checkpoints" / "best.safetensors").is_file()
    assert len(report.entries) == 1
    del settings["model"]["weights"]
    job = Job.of(RunConfig.model_validate(settings), tmp_path, None, Console(quiet=True))
    with pytest.raises(ConfigError, match=r"data without labels cannot train a float model: give model\.weights"):
        run.execute(job)


@pytest.fixture
def qat(tmp_path, capfd):
    return CommandLine(tmp_path, capfd)


@pytest.mark.parametrize("key", ["file", "weights"])
def test_half_a_keras_file_is_named(qat, tmp_path, monkeypatch, key):
    keras = pytest.importorskip("keras")
    net = (
        "import keras as k\n\ndef net():\n    return k.Sequential([k.Input((8, 8, 1)), k.layers.Flatten(), k.layers.Dense(10)])\n"
    )
    (tmp_path / "half_keras.py").write_text(net)
    monkeypatch.chdir(tmp_path)
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]).save("net.keras")
    (tmp_path / "half.keras").write_bytes((tmp_path / "net.keras").read_bytes()[:1000])
    model = "{file: half.keras}" if key == "file" else "{factory: 'half_keras:net', weights: half.keras}"
    (tmp_path / "run.yaml").write_text(f"name: net\nframework: keras\nmodel: {model}\ndata: {{source: digits}}\n")
    done = qat("run", "run.yaml")
    assert done.returncode == 2
    assert f"error: model.{key}: " in done.stderr
    assert "half.keras is not a whole .keras file, which is a zip archive: copy it again" in done.stderr


def test_one_output_for_classes_names_the_loss(qat, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "one_output.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "name: net\nframework: torch\nmodel: {factory: 'one_output:net'}\ndata: {source: digits}\n"
    )
    done = qat("run", "run.yaml")
    assert done.returncode == 2
    assert "the model has 1 output, the data 10 classes; for a regression name its loss: float_training.loss" in done.stderr


def test_a_folder_is_no_configuration(qat, tmp_path):
    done = qat("run", tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path} is a folder: give a .yaml file\n")

"""A user whose configuration, model and data lie in one folder, and who starts the run from another one."""

import json

import numpy as np
import pytest

from support.command_line import CommandLine

pytest.importorskip("torch")

MODEL = """
import torch


def make(width):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
"""

CONFIG = """
name: mine
framework: torch
model: {factory: "my_net:make", kwargs: {width: 24}}
data: {source: npz, path: data/digits.npz, batch_size: 32}
float_training: {epochs: 4, learning_rate: 0.05}
training: {epochs: 1}
control: false
ptq: false
latency_runs: 0
"""


@pytest.mark.slow
def test_everything_lies_beside_the_configuration(tmp_path, capfd):
    from sklearn.datasets import load_digits

    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "data").mkdir(parents=True)
    elsewhere.mkdir()
    digits = load_digits()
    x, y = digits.images.astype(np.float32) / 16, digits.target
    np.savez(project / "data" / "digits.npz", x_train=x[:1200], y_train=y[:1200], x_test=x[1200:], y_test=y[1200:])
    (project / "my_net.py").write_text(MODEL)
    (project / "run.yaml").write_text(CONFIG)
    qat = CommandLine(elsewhere, capfd)
    done = qat("run", project / "run.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    entry = next(entry for entry in result["entries"] if entry["kind"] == "qat")
    assert entry["top1"] > 80
    artifact = project / "runs" / "mine" / entry["path"]
    assert artifact.is_file()
    assert not list(elsewhere.iterdir())
    assert qat("inspect", artifact).returncode == 0
    done = qat("compare", project / "run.yaml", artifact, "my_net:make")
    assert done.returncode == 0, done.stderr
    assert artifact.stem in done.stdout

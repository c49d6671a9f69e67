"""A user who judges by a function of their own, in training and in the comparison alike, through the command line."""

import json

import pytest

from support.command_line import CommandLine

pytest.importorskip("torch")

MODULE = """
import numpy as np


def far_off(outputs, labels):
    \"\"\"Return how far the predicted digit is from the true one, for each sample.\"\"\"
    return np.abs(outputs.argmax(1) - labels).astype(float)


far_off.lower_is_better = True
"""

CONFIG = """
name: judged
framework: torch
model: {factory: "qat.runs.zoo_torch:mobilenet_tiny"}
data: {source: digits, batch_size: 64}
float_training: {epochs: 3, learning_rate: 0.05}
training: {epochs: 1, metrics: ["my_metrics:far_off", top1]}
control: false
latency_runs: 0
"""


@pytest.mark.slow
def test_the_metric_trains_compares_and_decides(tmp_path, capfd):
    (tmp_path / "my_metrics.py").write_text(MODULE)
    (tmp_path / "run.yaml").write_text(CONFIG)
    qat = CommandLine(tmp_path, capfd)
    done = qat("run", "run.yaml")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "runs" / "judged" / "summary.json").read_text())["results"]
    assert "far_off" in result["decision"]
    for entry in result["entries"]:
        assert 0 <= entry["metrics"]["far_off"] < 1.5
    assert "far_off" in done.stdout

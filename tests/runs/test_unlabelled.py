"""The comparison of a run whose data has no labels."""

import numpy as np
from rich.console import Console
from torch import nn

from qat.runs import stages
from qat.runs.config import RunConfig
from qat.runs.data import RunData
from qat.runs.job import Job


def test_metrics_of_training_do_not_end_the_run(tmp_path):
    images = np.random.default_rng(0).normal(size=(32, 4, 4, 1)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=images, x_test=images)
    config = RunConfig.model_validate({
        "name": "u", "framework": "torch", "model": {"factory": "qat.runs.zoo_torch:mobilenet_tiny"}, "latency_runs": 0,
        "data": {"source": "npz", "path": "d.npz"},
        "training": {"labels": "none", "teacher": "float", "metrics": ["top1"]},
    })  # fmt: skip
    job = Job.of(config, tmp_path, tmp_path / "out", Console(quiet=True))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    report = stages.compare(job, RunData(config, tmp_path), [net])
    assert report.metric is None and report.decision.startswith("No decision: no metric of labels")
    assert report.entries[0].metrics == {"top1 to float": 100.0} and report.entries[0].top1 is None

"""Whole runs of tasks that are not classification: float training, control, PTQ, QAT, export, comparison; by a configuration."""

import itertools
from dataclasses import dataclass

import pytest
from rich.console import Console

from qat.runs.config import RunConfig
from qat.runs.job import Job
from qat.runs.run import execute


@dataclass(frozen=True)
class Task:
    """A kind of task: its data, the loss of its configuration, its metrics, and the least that the float model reaches."""

    data: str
    epochs: int
    loss: str | None
    metrics: tuple
    reached: dict[str, float]
    float_operators: bool = False


OFF = {"name": "mae", "output": "size", "as": "off"}
BOXES_MOVED = {"name": "mae to float", "output": "boxes"}

TASKS = {
    "unet": Task("maps", 3, None, (), {"pixel_accuracy": 60, "iou": 30}),
    "regressor": Task("numbers", 12, "mse", ("rmse", "r2", "mae"), {"r2": -20}),
    "embedder": Task("classes", 8, "triplet", ("recall@1", "retrieval_map", "cosine to float"), {"recall@1": 40}, True),
    "two_heads": Task("halves", 6, "two_losses", ({"name": "top1", "output": "kind"}, OFF), {"top1 of kind": 15}),
    "detector": Task(
        "scenes", 40, "detection_loss", ("map", "map50", {"name": "mae to float", "output": "boxes"}), {"map50": 40}
    ),
}


def _cases():
    """Yield every task in both frameworks and formats; PyTorch's .tflite of each is quick, and one of Keras' is in CI."""
    for name in TASKS:
        for framework, target in itertools.product(("torch", "keras"), ("litert", "onnxruntime")):
            case = (name, framework, target)
            in_ci = case == ("two_heads", "keras", "litert")
            marks = (
                () if case[1:] == ("torch", "litert") else (pytest.mark.slow, pytest.mark.ci) if in_ci else (pytest.mark.slow,)
            )
            yield pytest.param(*case, marks=marks)


@pytest.mark.parametrize(("name", "framework", "target"), _cases())
def test_a_task_runs_from_the_float_model_to_the_decision(name, framework, target, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = TASKS[name]
    loss = task.loss if task.loss in (None, "mse") else f"support.tasks.{framework}:{task.loss}"
    # Several inputs come as their framework's users have them: of a DataLoader, or of tf.data.
    data = f"{framework}:halves" if task.data == "halves" else f"data:{task.data}"
    config = RunConfig.model_validate({
        "name": name, "framework": framework, "target": target, "latency_runs": 0,
        "model": {"factory": f"support.tasks.{framework}:{name}"},
        "data": {"source": "factory", "factory": f"support.tasks.{data}", "batch_size": 16},
        "float_training": {"epochs": task.epochs, "loss": loss, "optimizer": "adam", "learning_rate": 0.01},
        "training": {"epochs": 1, "loss": loss} | ({"metrics": list(task.metrics)} if task.metrics else {}),
    })  # fmt: skip
    report = execute(Job.of(config, tmp_path, tmp_path / "out", Console(quiet=True)))
    assert [entry.error for entry in report.entries if entry.error] == []
    assert {entry.kind for entry in report.entries} == {"float", "control", "ptq", "qat"}
    names = [m.name for m in report.measured]
    if task.metrics:
        assert len(names) == len(task.metrics)
        assert all(name == written for name, written in zip(names, task.metrics, strict=True) if isinstance(written, str))
    base = next(entry for entry in report.entries if entry.kind == "float")
    made = next(entry for entry in report.entries if entry.kind == "qat")
    for metric, least in task.reached.items():
        assert base.metrics[metric] >= least
    assert set(made.metrics) == set(names) and made.sqnr > 15
    assert None not in (made.delta, made.delta_low, made.p_float)
    assert made.parity.exact == 1.0 or task.float_operators
    assert report.metric.title in report.decision or report.metric.name in report.decision

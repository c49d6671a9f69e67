"""Detection by a configuration: from drawn scenes to the decision by mAP, and labels that are wrong."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from qat.errors import ConfigError
from qat.runs.config import RunConfig, load_run
from qat.runs.job import Job
from qat.runs.run import execute
from qat.runs.shipped import find
from support.command_line import CommandLine

LOSS = {"loss": "detection", "optimizer": "adamw"}


def config(framework, **changes):
    return RunConfig.model_validate({
        "name": f"detection_{framework}", "framework": framework, "latency_runs": 0,
        "model": {"factory": f"qat.runs.zoo_{framework}:ssdlite"},
        "data": {"source": "scenes", "count": 40, "batch_size": 16},
        "float_training": LOSS | {"epochs": 1, "learning_rate": 0.004}, "training": LOSS,
    } | changes)  # fmt: skip


def run(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return execute(Job.of(made, tmp_path, tmp_path / "out", Console(quiet=True)))


def test_a_run_ends_in_a_comparison_by_map(tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    model = {"factory": "support.tasks.torch:raw_detector"}
    report = run(config("torch", model=model, ptq=False, control=False), tmp_path, monkeypatch)
    assert [m.name for m in report.measured] == ["map", "map50"] and report.dataset == "scenes of digits"
    assert [e.parity.exact for e in report.entries if e.kind == "qat"] == [1.0]
    assert set(report.entries[0].metrics) == {"map", "map50"} and report.story.classes == tuple("0123456789")


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_detector_learns_and_keeps_what_it_learned(framework, tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    data = {"source": "scenes", "count": 600, "batch_size": 16}
    made = config(framework, data=data, float_training=LOSS | {"epochs": 12, "learning_rate": 0.004})
    report = run(made, tmp_path, monkeypatch)
    assert {e.kind for e in report.entries} == {"float", "control", "ptq", "qat"} and not any(e.error for e in report.entries)
    found = {e.kind: e for e in report.entries}
    assert "mAP" in report.decision
    assert found["float"].metrics["map50"] > 15 and found["qat"].metrics["map50"] > 15
    assert found["qat"].parity.exact == 1.0
    assert found["qat"].delta_low < found["qat"].delta < found["qat"].delta_high
    page = report.save(tmp_path / "page").read_text()
    assert "boxes by label" in page and "boxes by float" in page


BOX = [4, 6, 20, 22, 0]
WRONG = {
    "no size": ([[[9, 9, 9, 30, 0]]], "box 0 of image 0, (9, 9, 9, 30, 0), has no size"),
    "outside": ([[BOX], [[50, 50, 90, 90, 1]]], "box 0 of image 1, (50, 50, 90, 90, 1), is not within the image of 64 x 64"),
    "nan": ([[BOX, [np.nan] * 5]], "box 1 of image 0"),
    "corners": (np.zeros((1, 2, 4)), "labels of shape (20, 2, 4) (float32) are no boxes"),
    "one box": (np.zeros((1, 5)), "labels of shape (20, 5) (float32) are no boxes"),
    "class": ([[[*BOX[:4], 12]]], "(4, 6, 20, 22, 12), is of no class of the model, which has 10"),
    "no boxes": (None, "has no array 'y_train'"),
}


def write(folder, labels):
    """Write a configuration of 20 training and 4 test images beside their file; the first of both have these labels."""
    y = {}
    if labels is not None:
        given = np.array(labels, np.float32)
        for split, count in (("train", 20), ("test", 4)):
            rest = np.full((count - len(given), *given.shape[1:]), -1, np.float32)
            y[f"y_{split}"] = np.concatenate([given, rest])
    x = {f"x_{split}": np.zeros((count, 64, 64), np.uint8) for split, count in (("train", 20), ("test", 4))}
    np.savez(folder / "boxes.npz", **x, **y)
    path = folder / "run.yaml"
    path.write_text(
        "name: boxes\nframework: torch\nmodel: {factory: 'support.tasks.torch:raw_detector'}\n"
        "latency_runs: 0\nptq: false\ncontrol: false\n"
        "data: {source: npz, path: boxes.npz, batch_size: 20}\n"
        "float_training: {loss: detection, epochs: 1}\ntraining: {loss: detection}\n"
    )
    return path


@pytest.mark.parametrize(("labels", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_label_is_one_sentence_before_training(labels, said, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CommandLine(tmp_path, capfd)("run", write(tmp_path, labels))
    assert done.returncode == 2 and said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1


@pytest.mark.slow
def test_images_without_a_box_train_and_are_measured(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CommandLine(tmp_path, capfd)("run", write(tmp_path, np.full((1, 1, 5), -1)))
    assert done.returncode == 0 and "mAP" in done.stdout


def test_images_are_not_mirrored_without_their_boxes(tmp_path):
    made = config("torch", data={"source": "scenes", "count": 10, "flip": True})
    with pytest.raises(ConfigError, match=r"data\.flip mirrors images, and their boxes stay"):
        execute(Job.of(made, tmp_path, tmp_path / "out", Console(quiet=True)))


def test_scenes_have_keys_of_their_own():
    assert config("torch").data.size == (64, 64)
    assert config("torch", data={"source": "scenes", "size": 96}).data.size == (96, 96)
    with pytest.raises(ValueError, match="count is for the source scenes"):
        config("torch", data={"source": "digits", "count": 100})
    for framework in ("torch", "keras"):
        shipped = load_run(find(Path(f"detection_{framework}")))
        assert shipped.training.detects and shipped.float_training.detects and shipped.data.source == "scenes"

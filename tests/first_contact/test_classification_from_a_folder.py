"""A user with a folder of images, one subfolder a class: `qat init`'s kind of configuration, `qat run`, nothing else.

Files lie in a folder sorted by class. A split by position once left the last class out of training: its recall was 0.00.
"""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from qat.runtimes import open_session
from support.command_line import CommandLine

pytest.importorskip("torch")

CONFIG = """
name: pictures
framework: torch
model: {factory: "qat.runs.zoo_torch:mobilenet_tiny", kwargs: {classes: 10}}
data: {source: folder, path: images, size: 16, batch_size: 32, color: gray, workers: 0}
float_training: {epochs: 8, learning_rate: 0.1}
training: {epochs: 1}
control: false
ptq: false
latency_runs: 0
"""


@pytest.mark.slow
@pytest.mark.ci
def test_the_last_class_is_learnt_as_the_first_is(tmp_path, capfd):
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images[:900], digits.target[:900], strict=True)):
        folder = tmp_path / "images" / f"digit_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((16, 16)).save(folder / f"{index:04d}.png")
    (tmp_path / "run.yaml").write_text(CONFIG)
    qat = CommandLine(tmp_path, capfd)
    done = qat("run", "run.yaml")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "pictures" / "summary.json").read_text())
    entries = {entry["kind"]: entry for entry in summary["results"][0]["entries"]}
    assert entries["qat"]["top1"] > 80
    assert entries["qat"]["parity"]["exact"] == 1
    files = sorted((tmp_path / "images" / "digit_9").glob("*.png"))
    nines = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in files])[:, None]
    (scores,) = open_session(tmp_path / "runs" / "pictures" / entries["qat"]["path"]).run(nines)
    assert (scores.argmax(1) == 9).mean() > 0.7  # the recall of the last class

"""A run that is resumed has the model, the data and the options that it began with."""

import json
import re

import pytest
from rich.console import Console

from qat.errors import ConfigError
from qat.runs.beginning import FILE, hold_to_beginning
from qat.runs.config import load_run
from qat.runs.job import Job

TEXT = """\
name: held
framework: torch
model: {factory: "models:make", kwargs: {width: 8}}
data: {source: npz, path: data.npz, seed: 1}
training: {epochs: 2, learning_rate: 0.01}
"""


@pytest.fixture
def begun(tmp_path):
    """Return a function that begins or resumes a run of a changed configuration."""

    def run(old="", new="", resume=False):
        path = tmp_path / "run.yaml"
        path.write_text(TEXT.replace(old, new) if old else TEXT)
        hold_to_beginning(Job.of(load_run(path), tmp_path, tmp_path / "out", Console(quiet=True), resume))

    run()
    return run


@pytest.mark.parametrize(
    ("old", "new", "key", "was", "value"),
    [
        ("seed: 1", "seed: 2", "data.seed", "1", "2"),
        ("data.npz", "other.npz", "data.path", "'data.npz'", "'other.npz'"),
        ("width: 8", "width: 9", "model.kwargs", "{'width': 8}", "{'width': 9}"),
        ("models:make", "models:other", "model.factory", "'models:make'", "'models:other'"),
        ("name: held", "name: held\nrecipe: static_wi8_ai16", "recipe", "'static_wi8_ai8'", "'static_wi8_ai16'"),
        ("name: held", "name: held\ntarget: litert", "target", "'onnxruntime'", "'litert'"),
        ("name: held", "name: held\nequalize: true", "equalize", "False", "True"),
        ("name: held", "name: held\nreplace: {relu: relu6}", "replace", "[]", "[['relu', 'relu6']]"),
        ("name: held", "name: held\ncalibration: {samples: 9}", "calibration.samples", "512", "9"),
        ("name: held", "name: held\nfloat_training: {epochs: 9}", "float_training.epochs", "10", "9"),
        ("0.01", "0.02", "training.learning_rate", "0.01", "0.02"),
    ],
)
def test_a_changed_key_is_refused_with_both_values(begun, old, new, key, was, value):
    with pytest.raises(ConfigError, match=re.escape(f"{key} was {was} when this run began, and is {value}: put it back")):
        begun(old, new, resume=True)
    begun(old, new)  # a new run may be another


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("epochs: 2", "epochs: 9"),
        ("name: held", "name: other\nlatency_runs: 3\nptq: false"),
        ("seed: 1", "seed: 1, workers: 3, name: mine"),
        ("epochs: 2", "epochs: 2, checkpoint_every: 7"),
    ],
)
def test_what_no_weight_depends_on_may_change(begun, old, new):
    begun(old, new, resume=True)


def test_a_run_of_an_earlier_version_is_taken(begun, tmp_path):
    file = tmp_path / "out" / "checkpoints" / FILE
    then = json.loads(file.read_text())
    del then["data.seed"]
    file.write_text(json.dumps(then))
    begun("seed: 1", "seed: 2", resume=True)
    file.unlink()
    begun("seed: 1", "seed: 2", resume=True)
    assert json.loads(file.read_text())["data.seed"] == 2

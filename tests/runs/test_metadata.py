"""The metadata of a run's artifacts: what the configuration says, and what follows from the data."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from qat.errors import ConfigError
from qat.exporters.inspection import inspect
from qat.runs import float_model, stages
from qat.runs.config import RunConfig
from qat.runs.data import RunData
from qat.runs.job import Job
from qat.runs.metadata import metadata_of


@pytest.fixture
def data(tmp_path):
    """Return a function that opens a folder of three classes by a configuration with metadata."""
    for split in ("train", "test"):
        for name in ("cat", "dog", "emu"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for n in range(6):
                pixels = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{n}.png")

    def opened(metadata, **keys):
        folder = {"source": "folder", "path": str(tmp_path / "pets"), "size": 8, "batch_size": 4} | keys
        model = {"factory": "qat.runs.zoo_torch:mobilenet_tiny", "kwargs": {"channels": 3, "classes": 3}}
        values = {"name": "pets", "framework": "torch", "model": model, "data": folder, "target": "litert"}
        return RunData(RunConfig.model_validate(values | {"metadata": metadata}), tmp_path)

    return opened


def test_none_is_asked_for(data, tmp_path):
    assert metadata_of(data(None), tmp_path) is None


def test_what_is_left_out_follows_from_the_data(data, tmp_path):
    found = metadata_of(data({}, mean=(0.485, 0.456, 0.406), std=0.25), tmp_path)
    assert (found.name, found.labels) == ("pets", ("cat", "dog", "emu"))
    np.testing.assert_allclose(found.mean, (123.675, 116.28, 103.53))
    np.testing.assert_allclose(found.std, 63.75)
    raw = metadata_of(data({}, scale=1.0), tmp_path)
    assert raw.normalization == ((0.0,), (1.0,))


def test_what_is_said_counts(data, tmp_path):
    (tmp_path / "names.txt").write_text("Katze\nHund\nEmu\n", encoding="utf-8")
    said = {"labels": "names.txt", "mean": 0, "std": 255, "description": "Pets.", "license": "MIT", "name": "other"}
    found = metadata_of(data(said), tmp_path)
    assert found.labels == ("Katze", "Hund", "Emu")
    assert (found.normalization, found.description, found.license, found.name) == (((0.0,), (255.0,)), "Pets.", "MIT", "other")


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"labels": "nowhere.txt"}, "metadata.labels: .*nowhere.txt cannot be read"),
        ({"labels": ["a", "b"]}, "metadata.labels has 2 names, and the data 3 classes"),
        ({"labels": ["a", "", "c"]}, "label 1 is ''"),
        ({"mean": 0.5}, "give both"),
    ],
)
def test_mistakes_are_found_before_training(metadata, sentence, data, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        metadata_of(data(metadata), tmp_path)


def test_labels_that_the_model_has_no_outputs_for_are_found_before_training(data, tmp_path):
    opened = data({"labels": ["a", "b", "c", "d"]})
    job = Job.of(opened.config, tmp_path, tmp_path / "out", Console(quiet=True))
    with pytest.raises(ConfigError, match=r"metadata\.labels has 4 names, and the model returns 3 values"):
        float_model.trained(job, opened)


def test_the_artifact_of_a_run_says_it(data, tmp_path):
    opened = data({"description": "Pets."})
    job = Job.of(opened.config, tmp_path, tmp_path / "out", Console(quiet=True))
    model = float_model.FloatModel(job, opened, float_model.untrained(job).eval())
    made = stages.artifact(job, opened, stages.prepare(job, opened, model), "qat", "qat")
    assert inspect(made.path).says() == [
        ("name", "pets"), ("description", "Pets."), ("labels", "3: cat, dog, emu"), ("pixels", "(0 to 255 - 0) / 255"),
    ]  # fmt: skip

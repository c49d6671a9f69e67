"""Configurations: docs/configuration.md names every key and no other, and a mistake is named with its line."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from qat.errors import ConfigError
from qat.runs.config import TRAINING_KEYS, OwnFloatModel, RunConfig, load_run
from qat.trainers import TrainingOptions

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys(model=RunConfig, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{name}.")
        elif name == "float_training":  # has the keys of training, which stand in that section's row
            yield from ()
        elif kind is TrainingOptions:
            yield from (f"{name}.{key}" for key in TRAINING_KEYS)
        else:
            yield prefix + name


def documented():
    """Return the keys that the table's rows name: ``a.b``, ``.c`` after it, and bare words in the row of a whole section."""
    found = set()
    for line in re.findall(r"^\| (`.*)", PAGE.read_text(), re.MULTILINE):
        named, default, meaning = (cell.strip() for cell in line.split("|", 2))
        section = ""
        for key in re.findall(r"`([\w.]+)`", named):
            section = section if key.startswith(".") else key.split(".")[0]
            found.add(section + key if key.startswith(".") else key)
        if named.strip("`") in RunConfig.model_fields:
            found |= {f"{section}.{word}" for word in re.findall(r"`([a-z_0-9]+)`", default + meaning)} & set(keys())
    return found - {"model", "data", "training", "float_training", "calibration"}


def test_every_key_is_documented_and_every_documented_key_exists():
    assert documented() == set(keys())


def written(folder, *training):
    path = folder / "run.yaml"
    head = ["name: mine", "framework: torch", "model: {factory: 'nets:make'}", "training:"]
    path.write_text("\n".join([*head, *(f"  {line}" for line in training)]))
    return path


def test_training_is_read_as_the_options_of_finetune(tmp_path):
    options = load_run(written(tmp_path, "epochs: 3", "metrics: [top1, mse]", "teacher: float", "labels: none")).training
    assert (options.epochs, options.metrics, options.labels, options.chosen_optimizer) == (3, ("top1", "mse"), "none", "adam")
    assert isinstance(options.teacher, OwnFloatModel)
    assert load_run(written(tmp_path, "epochs: 3")).training == TrainingOptions(epochs=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch: 3", r"unknown key 'epoch' \(did you mean 'epochs'\?\); valid here: epochs, max_steps"),
        ("checkpoint_dir: here", "unknown key 'checkpoint_dir'"),
        ("epochs: 0", "epochs must be a whole number of at least 1, not 0"),
        ("learning_rate: fast", "learning_rate must be a number of at least 1e-12, not 'fast'"),
        ("optimizer: sdg", r"unknown optimizer 'sdg' \(did you mean 'sgd'\?\)"),
        ("teacher: mine", "teacher is 'float', the run's own float model, or left out, not 'mine'"),
    ],
)
def test_a_wrong_training_option_is_named_with_its_line(tmp_path, line, message):
    path = written(tmp_path, "seed: 1", line)
    with pytest.raises(ConfigError, match=f"^{path}:6: {message}"):
        load_run(path)


def test_float_training_takes_the_options_of_training(tmp_path):
    def read(text):
        path = tmp_path / "run.yaml"
        path.write_text(f"name: mine\nframework: torch\nmodel: {{factory: 'nets:make'}}\n{text}")
        return load_run(path).float_training

    assert read("") == TrainingOptions(epochs=10, learning_rate=0.1, gradient_clip=None)
    assert read("float_training: {optimizer: adam, schedule: linear, epochs: 2}") == TrainingOptions(
        epochs=2, learning_rate=1e-3, gradient_clip=None, optimizer="adam", schedule="linear"
    )
    with pytest.raises(ConfigError, match=r"run\.yaml:4: unknown key 'epoch' \(did you mean 'epochs'"):
        read("float_training: {epoch: 2}")
    with pytest.raises(ConfigError, match="a float model that is trained here has no teacher"):
        read("float_training: {teacher: float}")


def test_a_model_in_the_place_of_a_configuration_is_told_how_to_get_one(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x08\x0a\xcb\xff")
    with pytest.raises(ConfigError, match=r"net\.onnx is no text: give a \.yaml file; `qat init --from .*net\.onnx --data DATA`"):
        load_run(path)

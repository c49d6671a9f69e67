"""`qat init`: the configuration fits the model and the data, says why, and runs."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from PIL import Image

from qat.errors import ConfigError, DataError, QatError
from qat.runs.config import load_run
from qat.runs.data import RunData
from qat.runs.proposal import propose
from support.command_line import CommandLine

pytest.importorskip("torch")
keras = pytest.importorskip("keras")

TORCH = """
from torch import nn

def make(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )

def gray():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def number():
    return make(1)

def maps():
    return nn.Conv2d(3, 4, 3, padding=1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with model.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "model.py").write_text(TORCH)
    yield tmp_path
    sys.modules.pop("model", None)


@pytest.fixture
def pets(folder):
    """An image folder of three classes, the first one common."""
    random = np.random.default_rng(0)
    for split, counts in (("train", (40, 9, 9)), ("test", (5, 5, 5))):
        for label, (name, count) in enumerate(zip(("cat", "dog", "emu"), counts, strict=True)):
            (folder / "pets" / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = random.integers(0, 120, (20, 24, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "pets" / split / name / f"{n}.png")
    return folder / "pets"


def arrays(folder, x=None, y=None):
    """Write data.npz, of three classes that differ in brightness."""
    labels = np.arange(48) % 3
    images = (np.random.default_rng(0).integers(0, 60, (48, 8, 8, 3)) + 90 * labels[:, None, None, None]).astype(np.uint8)
    x, y = images if x is None else x, labels if y is None else y
    named = {"x_train": x, "x_test": x} | ({} if isinstance(y, str) else {"y_train": y, "y_test": y})
    np.savez(folder / "data.npz", **named)
    return folder / "data.npz"


def keras_model(*layers, classes=3):
    net = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, *net])


def test_an_image_folder_and_a_factory(pets, folder):
    made = propose("model.py:make", pets, None, folder / "qat.yaml")
    c = made.config
    assert (c.name, c.framework, c.model.factory, c.model.kwargs) == ("qat", "torch", "model:make", {"num_classes": 3})
    assert (c.data.source, c.data.path, c.data.size) == ("folder", "pets", (20, 20))
    assert (c.training.loss, c.training.metrics) == ("cross_entropy", ("f1", "top1"))
    assert re.fullmatch(
        r"53 training, 5 .* 15 test samples of 20x20x3 \(uint8\), 3 classes: 8 of 'dog' to 37 of 'cat'", made.about
    )
    text = made.path.read_text()
    for why in (
        "the data have 3 classes, and the factory takes num_classes",
        "images in class folders",
        "classification: 3 outputs, and labels that are class numbers",
        "the model comes without weights",
        "the classes are unbalanced ('dog' has 8 of 53)",
    ):
        assert f"# {why}" in text
    assert load_run(made.path) == c


def test_every_line_of_the_file_is_the_reason_or_a_key(pets, folder):
    text = propose("model.py:make", pets, None, folder / "qat.yaml").path.read_text()
    assert all(re.match(r" *(#|\w+:)", line) for line in text.splitlines() if line)


def test_a_keras_file_gives_its_size_and_its_rescaling(pets, folder):
    keras_model(keras.layers.Rescaling(1 / 255, name="rescaling")).save(folder / "net.keras")
    c = propose("net.keras", pets, None, folder / "qat.yaml").config
    assert (c.framework, c.model.file, c.data.size, c.data.scale) == ("keras", "net.keras", (8, 8), 1.0)
    assert "rescaling' multiplies by 0.00392" in (folder / "qat.yaml").read_text()


def test_the_normalization_of_a_trained_model_is_tried(folder):
    data = arrays(folder)
    model = keras_model()
    x, y = (np.load(data)[name] for name in ("x_train", "y_train"))
    # Nearest of the three brightnesses, of pixels from -1 to 1: the distance to each as a linear function of the mean.
    means = [(x[y == k] / 127.5 - 1).mean() for k in range(3)]
    model.layers[0].set_weights([np.full((3, 3, 3, 8), 1 / 27, np.float32), np.full(8, 1.0, np.float32)])  # 1 + mean >= 0
    weight = np.array([[2 * m / 8 for m in means]] * 8, np.float32)
    bias = np.array([-(m**2) - 2 * m for m in means], np.float32)
    model.layers[-1].set_weights([weight, bias])
    model.save(folder / "net.keras")
    c = propose("net.keras", data, None, folder / "qat.yaml").config
    assert (c.data.mean, c.data.std) == (0.5, 0.5)
    assert "top-1 of the trained model on 48 test images, by their normalization: -1 to 1: 100 %, " in c_text(folder)


def c_text(folder):
    return " ".join((folder / "qat.yaml").read_text().replace("#", " ").split())


@pytest.mark.parametrize(
    ("x", "y", "factory", "expected"),
    [
        (np.zeros((48, 3, 8, 9), np.uint8), None, "make", {"data.layout": "NCHW"}),
        (np.zeros((48, 8, 8), np.uint8), None, "gray", {"data.scale": None}),
        (np.ones((48, 8, 8, 3), np.float32), None, "make", {"data.scale": 1.0}),
        (
            None,
            np.linspace(0, 1, 48, dtype=np.float32)[:, None],
            "number",
            {"training.loss": "mse", "training.metrics": ("mae",)},
        ),
    ],
)
def test_arrays(x, y, factory, expected, folder):
    c = propose(f"model.py:{factory}", arrays(folder, x, y), None, folder / "qat.yaml").config
    assert c.data.source == "npz"
    for key, value in expected.items():
        section, name = key.split(".")
        assert getattr(getattr(c, section), name) == value
    assert RunData(c, folder).example() is not None


def test_maps_of_classes(folder):
    data = arrays(folder, y=np.random.default_rng(0).integers(0, 4, (48, 8, 8)))
    c = propose("model.py:maps", data, None, folder / "qat.yaml").config
    assert c.training.loss == "cross_entropy"
    assert "a class for each place, as in segmentation: 4x8x8 outputs" in c_text(folder)


def test_names_of_classes_are_no_numbers(folder):
    data = arrays(folder, y=np.array(["cat", "dog"] * 24))
    with pytest.raises(DataError, match=r"y_train holds <U3, not numbers: np\.unique"):
        propose("model.py:make", data, None, folder / "qat.yaml")


def test_data_without_labels_learn_from_a_model_with_weights(folder):
    data = arrays(folder, y="none")
    with pytest.raises(ConfigError, match="data without labels cannot train a float model: name its weights"):
        propose("model.py:make", data, None, folder / "qat.yaml")
    keras_model().save(folder / "net.keras")
    c = propose("net.keras", data, None, folder / "qat.yaml").config
    assert c.training.labels == "none"
    assert c.training.teacher is not None


def test_weights_of_a_factory(folder):
    import torch

    sys.path.insert(0, str(folder))
    import model

    torch.save(model.make().state_dict(), folder / "net.pth")
    c = propose("model.py:make", arrays(folder, y=np.arange(48) % 10), folder / "net.pth", folder / "qat.yaml").config
    assert c.model.weights == "net.pth"
    assert "float_training" not in c_text(folder)


def test_a_model_alone_gets_the_digits(folder):
    assert propose("model.py:gray", None, None, folder / "qat.yaml").config.data.source == "digits"
    with pytest.raises(ConfigError, match=r"does not take the data, \(1, 8, 8\) \(NCHW\): .*; --data names yours"):
        propose("model.py:make", None, None, folder / "other.yaml")


def test_other_folders(folder, pets):
    (folder / "configs").mkdir()
    c = propose("model.py:make", pets, None, folder / "configs" / "qat.yaml").config
    assert (c.model.factory, c.data.path) == ("model:make", str(pets))
    (folder / "nets").mkdir()
    (folder / "nets" / "small.py").write_text(TORCH)
    assert propose("nets/small.py:make", pets, None, folder / "qat.yaml").config.model.factory == "nets.small:make"


@pytest.mark.parametrize(
    ("model", "data", "error", "sentence"),
    [
        ("net.pth", None, ConfigError, "net.pth holds weights alone, .*qat init --from model.py:make --weights net.pth"),
        ("net.weights.h5", None, ConfigError, "holds weights alone"),
        (
            "model.py",
            None,
            ConfigError,
            "write model.py:make, package.module:make, or the path of a .keras, .onnx or .tflite file",
        ),
        ("nowhere.py:make", None, ConfigError, "no such file: nowhere.py"),
        ("model.py:mak", None, ConfigError, "module model has no function 'mak'"),
        ("nowhere.keras", None, ConfigError, "no such file: nowhere.keras"),
        ("model.py:make", "nowhere", DataError, "--data nowhere: no such file or folder"),
        ("model.py:make", "model.py", DataError, "a file of data is an .npz"),
        ("model.py:make", ".", DataError, "holds no images, no x_train.npy and no IDX files"),
        (None, "pets", ConfigError, "name the model too: --from"),
    ],
)
def test_mistakes_are_one_sentence(model, data, error, sentence, folder):
    from pathlib import Path

    with pytest.raises(error, match=sentence):
        propose(model, None if data is None else Path(data), None, folder / "qat.yaml")
    assert not (folder / "qat.yaml").exists()


def test_a_file_is_replaced_by_force_alone(folder):
    out = folder / "qat.yaml"
    assert propose(None, None, None, out).config.data.source == "digits"
    out.write_text("mine")
    with pytest.raises(QatError, match=r"exists already: --out names another file, --force replaces it"):
        propose(None, None, None, out)
    assert out.read_text() == "mine"
    propose(None, None, None, out, force=True)
    assert load_run(out).data.source == "digits"


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_what_it_writes_runs(framework, folder, pets, capfd):
    qat = CommandLine(folder, capfd)
    keras_model(keras.layers.Rescaling(1 / 255)).save(folder / "net.keras")
    done = qat("init", "--from", "model.py:make" if framework == "torch" else "net.keras", "--data", "pets", "--out", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert "written: tiny.yaml" in done.stdout
    done = qat("run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "tiny" / "summary.json").is_file()
    assert {path.name for path in folder.iterdir()} <= {"model.py", "net.keras", "pets", "tiny.yaml", "runs", "__pycache__"}

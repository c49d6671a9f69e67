"""``qat compare`` on what a user has: artifacts, a .keras file, weights, a checkpoint, a factory; and what each is called."""

import sys

import keras
import numpy as np
import pytest
import torch

import qat
from qat.report.records import distinct_names
from support.command_line import CommandLine

MODELS = """
import torch

def net(width=8):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, 3))

def dense(width=8):
    import keras
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(width, "relu"), layers.Dense(3)])

def broken():
    raise RuntimeError("no such net")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("compared_models", None)
    (tmp_path / "compared_models.py").write_text(MODELS)
    x = np.random.default_rng(0).normal(size=(48, 4, 4, 1)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.arange(48) % 3, x_test=x, y_test=np.arange(48) % 3)
    for framework, name in (("torch", "net"), ("keras", "dense")):
        (tmp_path / f"{framework}.yaml").write_text(
            f"name: t\nframework: {framework}\nmodel: {{factory: 'compared_models:{name}', kwargs: {{width: 12}}}}\n"
            "data: {source: npz, path: d.npz}\nlatency_runs: 0\n"
        )
    return tmp_path


def compared(folder, capfd, *arguments):
    """Return the report's rows by the name of the entry, and all that was printed."""
    done = CommandLine(folder, capfd)("compare", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines if line}, done.stdout


@pytest.mark.slow
@pytest.mark.ci
def test_a_torch_run_compares_weights_checkpoints_factories_and_a_keras_file(folder, capfd):
    import compared_models

    model, x = compared_models.net(12), np.load("d.npz")["x_train"].transpose(0, 3, 1, 2)
    torch.save(model.state_dict(), "mine.pth")
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    qat.finetune(prepared, [(x, np.arange(48) % 3)], checkpoint_dir="checkpoints", progress=False)
    qat.export(prepared, "made.onnx")
    compared_models.dense().save("other.keras")
    given = ("mine.pth", "checkpoints/best.safetensors", "made.onnx", "compared_models:net", "other.keras")
    rows, printed = compared(folder, capfd, "torch.yaml", *given)
    assert {"mine", "best", "made", "net", "other"} <= set(rows), printed
    # The checkpoint is the model that was exported; the factory is the configuration's, with its width and its seed.
    assert rows["best"] == rows["made"]
    assert rows["net"] == rows["mine"]
    assert rows["other"] != rows["mine"]


@pytest.mark.slow
def test_a_keras_run_compares_weights_a_prepared_model_and_a_file_of_pytorch(folder, capfd):
    import compared_models

    model, x = compared_models.dense(12), np.load("d.npz")["x_train"]
    model.save_weights("w.weights.h5")
    prepared = qat.calibrate(qat.prepare(model), [x])
    prepared.save("prepared.keras")
    keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]).save("small.keras")
    rows, printed = compared(folder, capfd, "keras.yaml", "w.weights.h5", "prepared.keras", "small.keras", "compared_models:net")
    assert {"w", "prepared", "small", "net"} <= set(rows), printed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("model.pkl", "'model.pkl' is nothing that can be compared: give an artifact"),
        ("none.keras", "no such file: none.keras"),
        ("none.pth", "no such weights file: none.pth"),
        ("compared_models:broken", "the factory 'compared_models:broken' with model.kwargs {}: RuntimeError: no such net"),
        ("compared_models:missing", "module compared_models has no function 'missing'"),
    ],
)
def test_what_cannot_be_compared_is_said(folder, capfd, given, said):
    done = CommandLine(folder, capfd)("compare", "torch.yaml", given)
    assert done.returncode == 2
    assert said in done.stderr


def test_files_of_one_name_are_told_apart(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    same = ["model", "model"]
    assert distinct_names(same, [a / "model.tflite", b / "model.tflite"]) == ["a/model", "b/model"]
    assert distinct_names(same, [a / "model.tflite", a / "model.onnx"]) == ["model.tflite", "model.onnx"]
    assert distinct_names(same, [a / "x" / "model.onnx", b / "x" / "model.onnx"]) == ["a/x/model", "b/x/model"]
    assert distinct_names(same, [a / "model.onnx"] * 2) == ["model", "model 2"]
    assert distinct_names(["one", *same], [None] * 3) == ["one", "model", "model 2"]


def test_models_are_compared_by_the_names_of_a_dictionary():
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    net = torch.nn.Linear(4, 3)
    prepared = qat.calibrate(qat.prepare(net, x), [x])
    report = qat.compare({"before": net, "after": prepared}, [x], latency_runs=0)
    assert [(entry.name, entry.kind) for entry in report.entries] == [("before", "float"), ("after", "qat")]
    report = qat.compare([net, prepared, prepared], [x], latency_runs=0)
    assert [entry.name for entry in report.entries] == ["float", "qat", "qat 2"]

"""No result of a function lies near a border between two integers: scales move, and float arithmetic changes no integer."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers
from torch import nn

import qat
from qat.arithmetic.encoding import Encoding
from qat.calibration.clear_borders import clear_borders
from qat.runtimes import open_session

IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
FUNCTIONS = {
    "silu": F.silu, "hard_swish": F.hardswish, "gelu": F.gelu, "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "hard_sigmoid": F.hardsigmoid, "elu": F.elu, "mish": F.mish,
    "softplus": F.softplus, "leaky_relu": lambda x: F.leaky_relu(x, 0.25), "sqrt": lambda x: F.relu(x).sqrt(),
}  # fmt: skip


class Chain(nn.Module):
    """One function behind each of eight convolutions, so that some result lies near a border by chance."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(8))
        self.function = function

    def forward(self, x):
        for conv in self.convs:
            x = self.function(4.0 * conv(x))
        return x


class Applied(nn.Module):
    """A convolution that changes nothing, and a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(1, 1, 1, bias=False), function
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return self.function(self.conv(x))


def operators(artifact) -> set[str]:
    return set(open_session(artifact.path).ops())


def ranges(model) -> dict[str, Encoding]:
    return {name: grid.encoding for name, grid in model.grids.items()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_is_a_table(name, tmp_path: Path):
    prepared = qat.calibrate(qat.prepare(Chain(FUNCTIONS[name]).eval(), IMAGES, target="onnxruntime"), [IMAGES])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[IMAGES])
    assert artifact.parity.exact == 1.0
    assert "Gather" not in operators(artifact)
    held = ranges(prepared)
    clear_borders(prepared)
    assert all(encoding.same_as(held[name]) for name, encoding in ranges(prepared).items())


def test_silu_and_gelu_are_one_operator(tmp_path: Path):
    for function, operator in ((F.silu, "QuickGelu"), (F.gelu, "Gelu")):
        prepared = qat.calibrate(qat.prepare(Chain(function).eval(), IMAGES, target="onnxruntime"), [IMAGES])
        ops = open_session(qat.export(prepared, tmp_path / "m.onnx", overwrite=True).path).ops()
        assert ops[operator] == 8 and ops["DequantizeLinear"] == 9, "one for each function, and the model's output"


@pytest.mark.parametrize("name", ["silu", "sigmoid", "tanh"])
def test_ranges_move_by_less_than_a_hundredth(name, monkeypatch: pytest.MonkeyPatch):
    moved, cleared, plain = moves(name, "onnxruntime", monkeypatch)
    assert all(1.0 <= factor < 1.01 for factor in moved) and max(moved) > 1.0
    assert all(cleared[group].zero_point == plain[group].zero_point for group in plain)


def moves(name: str, target: str, monkeypatch: pytest.MonkeyPatch):
    """Return by how much each scale moves, and the encodings with and without that."""
    model = Chain(FUNCTIONS[name]).eval()
    cleared = ranges(qat.calibrate(qat.prepare(model, IMAGES, target=target), [IMAGES]))
    with monkeypatch.context() as patch:
        patch.setattr("qat.calibration.calibrate.clear_borders", lambda model: None)
        plain = ranges(qat.calibrate(qat.prepare(model, IMAGES, target=target), [IMAGES]))
    return [float(cleared[group].scale / plain[group].scale) for group in plain], cleared, plain


@pytest.mark.parametrize(("name", "some"), [("sigmoid", True), ("gelu", True), ("mish", False), ("leaky_relu", False)])
def test_for_litert_ranges_move_where_its_kernel_makes_the_table_in_float(name, some, monkeypatch: pytest.MonkeyPatch):
    moved, _, _ = moves(name, "litert", monkeypatch)
    assert all(1.0 <= factor < 1.01 for factor in moved)
    assert (max(moved) > 1.0) == some


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu", "gelu by tanh", "elu"])
def test_a_function_is_a_kernel_of_litert_and_exact(name, tmp_path: Path):
    prepared = qat.calibrate(qat.prepare(Chain(FUNCTIONS[name]).eval(), IMAGES, target="litert"), [IMAGES])
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[IMAGES])
    assert artifact.parity.exact == 1.0
    assert "GATHER" not in operators(artifact)


@pytest.mark.parametrize(
    ("function", "read", "written", "operator"),
    [
        (F.gelu, (0.07456805557012558, 11), (0.03458767756819725, -123), "GATHER"),  # LiteRT's kernel makes 201 of 200.499995
        (F.elu, (0.0375, 0), (0.025, -88), "GATHER"),  # ... and 5 of 4.5, whose even neighbour is 4
        (F.elu, (0.05, 0), (0.05, -28), "ELU"),
    ],
)
def test_a_result_at_a_border_is_looked_up_in_a_tflite(function, read, written, operator, tmp_path: Path):
    values = ((torch.arange(-128, 128) - read[1]) * read[0]).reshape(1, 1, 16, 16)
    net = Applied(function).eval()
    prepared = qat.calibrate(qat.prepare(net, values, target="litert"), [values])
    op = prepared.plan.ops[-1].op
    for name, (scale, zero_point) in (("x", read), (op.inputs[0], read), (op.output, written)):
        grid = prepared.grids[prepared.plan.group_of[name]]
        grid.set_range((-128 - zero_point) * scale, (127 - zero_point) * scale)
        assert grid.encoding.zero_point == zero_point and grid.encoding.scale == np.float32(scale)
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[values])
    assert artifact.parity.exact == 1.0
    assert operator in operators(artifact)


def test_tracked_ranges_are_cleared_when_they_freeze(tmp_path: Path):
    model = qat.prepare(Chain(F.silu).eval(), IMAGES, target="onnxruntime")
    qat.calibrate(model, [IMAGES])
    qat.track_ranges(model)
    model.train()
    for seed in range(3):
        model(IMAGES * (1.0 + 0.37 * seed))
    qat.freeze_ranges(model)
    artifact = qat.export(model.eval(), tmp_path / "m.onnx", verify=[IMAGES])
    assert artifact.parity.exact == 1.0 and "Gather" not in operators(artifact)


def test_finetune_leaves_no_table(tmp_path: Path):
    model = qat.calibrate(qat.prepare(nn.Sequential(Chain(F.silu), nn.Flatten()).eval(), IMAGES), [IMAGES])
    labels = torch.arange(4)
    qat.finetune(model, [(IMAGES, labels)], epochs=3, learning_rate=1e-3, observe_fraction=0.9, progress=False)
    artifact = qat.export(model, tmp_path / "m.onnx", verify=[IMAGES])
    assert artifact.parity.exact == 1.0 and "Gather" not in operators(artifact)


def test_a_checkpoint_is_cleared_as_the_trained_model_is(tmp_path: Path):
    def prepared():
        return qat.prepare(nn.Sequential(Chain(F.silu), nn.Flatten()).eval(), IMAGES)

    model = qat.calibrate(prepared(), [IMAGES])
    folder = tmp_path / "checkpoints"
    qat.finetune(
        model,
        [(IMAGES, torch.arange(4))],
        epochs=3,
        learning_rate=1e-3,
        observe_fraction=1.0,
        checkpoint_dir=folder,
        progress=False,
    )
    loaded = qat.load_prepared(prepared(), folder / "best.safetensors")
    held = ranges(model)
    assert all(encoding.same_as(held[name]) for name, encoding in ranges(loaded).items())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IMAGES), model(IMAGES))


def test_keras_models_too(tmp_path: Path):
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((6, 6, 3))
    for function in ("silu", "gelu", "hard_sigmoid", "tanh", "sigmoid", "mish", "elu") * 2:
        x = layers.Activation(function)(layers.Conv2D(3, 1)(x))
    images = IMAGES.permute(0, 2, 3, 1).numpy()
    prepared = qat.calibrate(qat.prepare(keras.Model(inputs, x), images, target="onnxruntime"), [images])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[images])
    assert artifact.parity.exact == 1.0 and "Gather" not in operators(artifact)

"""Tokens as rows in an ``.onnx``: fewer reshapes around dense layers, the same integers."""

import keras
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qat

TOKENS = np.random.default_rng(0).normal(size=(8, 6, 16)).astype(np.float32)


class Block(nn.Module):
    """A block of a transformer before its attention's heads are joined: norms, a residual sum, layers, a scaled gate."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.up, self.down = (nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x):
        h = self.first(self.norms[0](x)).unflatten(-1, (4, -1)).transpose(1, 2)
        x = x + self.second(h.transpose(1, 2).flatten(-2))
        h = self.up(self.norms[1](x))
        return (x + self.down(h * torch.sigmoid(1.702 * h))).mean(1)


class Scaled(nn.Module):
    """Images with their channels last, as in ConvNeXt, with a factor of each channel that is no row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.up, self.down, self.factor = nn.Linear(16, 32), nn.Linear(32, 16), nn.Parameter(torch.rand(16))

    def forward(self, x):
        x = self.conv(x)
        h = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return (x + (self.factor * h).permute(0, 3, 1, 2)).mean((2, 3))


class Shared(nn.Module):
    """Two heads and a sum read the same tokens; one of them leaves the model as it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.second(torch.relu(self.first(x) + x)), x.amax(1)


IMAGES = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("make", "x", "reshapes"),
    [(Block, TOKENS, 5), (Scaled, IMAGES, 3), (Shared, TOKENS, 3)],
    ids=["transformer", "channels last", "shared"],
)
def test_chains_on_rows(make, x, reshapes, tmp_path):
    prepared = qat.calibrate(qat.prepare(make().eval(), x, target="onnxruntime"), [x])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[x, x[:3]])
    assert artifact.parity.exact == 1
    assert kinds(artifact.path).count("Reshape") == reshapes


def test_a_scaled_gate_is_one_operator(tmp_path):
    prepared = qat.calibrate(qat.prepare(Block().eval(), TOKENS, target="onnxruntime"), [TOKENS])
    assert "QuickGelu" in kinds(qat.export(prepared, tmp_path / "m.onnx").path)


def test_tokens_of_a_free_number_keep_their_axes(tmp_path):
    prepared = qat.calibrate(qat.prepare(Block().eval(), TOKENS, target="onnxruntime", dynamic=("tokens",)), [TOKENS])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[TOKENS, TOKENS[:, :4]])
    assert artifact.parity.exact == 1


def test_in_keras(tmp_path):
    layers = keras.layers
    keras.utils.set_random_seed(0)
    entry = keras.Input((6, 16))
    x = layers.Dense(16)(layers.LayerNormalization()(entry))
    x = layers.Add()([entry, layers.Dense(16)(layers.Dense(32, activation="gelu")(x))])
    model = keras.Model(entry, layers.Dense(3)(layers.Flatten()(x)))
    prepared = qat.calibrate(qat.prepare(model, target="onnxruntime"), [TOKENS])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[TOKENS])
    assert artifact.parity.exact == 1
    assert kinds(artifact.path).count("Reshape") == 2


def test_the_operator_that_differs_is_found_among_rows(tmp_path, monkeypatch):
    """A wrong kernel is named by its own name, though the file holds its result as rows."""
    from qat.exporters.onnx import table

    def wrong(writer, instruction):
        table_of = dict(instruction.attrs)
        return original(writer, type(instruction)(**{**instruction.__dict__, "attrs": table_of, "bias": instruction.bias + 5}))

    original = table.WRITERS["layer_norm"]
    monkeypatch.setitem(table.WRITERS, "layer_norm", wrong)
    prepared = qat.calibrate(qat.prepare(Block().eval(), TOKENS, target="onnxruntime"), [TOKENS])
    found = qat.export(prepared, tmp_path / "m.onnx", verify=[TOKENS]).parity
    assert found.exact < 1 and "layer_norm" in found.first_difference

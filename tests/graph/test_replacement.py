"""Activations that another stands for: the prepared model and the artifact compute the new one, in both frameworks."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers, ops
from torch import nn

import qat
from qat.errors import ConfigError
from qat.planning.recipe import Recipe, Rule, load_recipe
from qat.planning.recipe_text import recipe_yaml
from support.machine import EIGHT_BITS_ARE_EXACT

IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
REPLACEMENTS = {"hard_swish": F.hardswish, "relu": F.relu, "relu6": F.relu6}


class Net(nn.Module):
    """A convolution, an activation, another convolution; SiLU as a module and as a function, or GELU."""

    def __init__(self, *functions) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.functions = functions

    def forward(self, x):
        for conv, function in zip((self.a, self.b), self.functions, strict=True):
            x = function(3.0 * conv(x))
        return self.end(x)


@pytest.mark.parametrize("target", ["onnxruntime", "litert", "tensorrt"])
@pytest.mark.parametrize("new", REPLACEMENTS)
@pytest.mark.parametrize("old", ["silu", "gelu"])
def test_torch_computes_the_new_one(old, new, target, tmp_path: Path):
    function = {"silu": F.silu, "gelu": F.gelu}[old]
    model, wanted = Net(function, function).eval(), Net(REPLACEMENTS[new], REPLACEMENTS[new]).eval()
    prepared = qat.prepare(model, IMAGES, target=target, replace={old: new})
    with torch.no_grad():
        torch.testing.assert_close(prepared.eval()(IMAGES), wanted(IMAGES))
        assert float((model(IMAGES) - wanted(IMAGES)).abs().max()) > 1e-2, "the float model stays"
    qat.calibrate(prepared, [IMAGES])
    same = qat.calibrate(qat.prepare(wanted, IMAGES, target=target), [IMAGES])
    with torch.no_grad():
        assert torch.equal(prepared(IMAGES), same(IMAGES))
    suffix = ".tflite" if target == "litert" else ".onnx"
    artifact = qat.export(prepared, tmp_path / f"m{suffix}", verify=[IMAGES])
    if target != "tensorrt":
        assert artifact.parity.exact == 1.0
    elif EIGHT_BITS_ARE_EXACT:
        assert artifact.parity.max_lsb <= 1


@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
@pytest.mark.parametrize("new", REPLACEMENTS)
def test_keras_computes_the_new_one(new, target, suffix, tmp_path: Path):
    def net(function):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6, 6, 3))
        x = function(layers.Conv2D(4, 1)(inputs))
        return keras.Model(inputs, layers.Conv2D(2, 1)(x))

    images = 4.0 * IMAGES.permute(0, 2, 3, 1).numpy()
    model, wanted = net(layers.Activation("silu")), net(getattr(ops, new))
    prepared = qat.prepare(model, images, target=target, replace={"silu": new})
    np.testing.assert_allclose(prepared(images), wanted(images), rtol=1e-4, atol=1e-5)
    artifact = qat.export(qat.calibrate(prepared, [images]), tmp_path / f"m{suffix}", verify=[images])
    assert artifact.parity.exact == 1.0


def test_the_float_model_teaches_the_replaced_one():
    model = Net(F.silu, F.silu).eval()
    prepared = qat.calibrate(qat.prepare(model, IMAGES, replace={"silu": "relu"}), [IMAGES])

    def distance() -> float:
        with torch.no_grad():
            return float((prepared.eval()(IMAGES) - model(IMAGES)).square().mean())

    before = distance()
    qat.finetune(prepared, [IMAGES] * 20, epochs=3, learning_rate=1e-2, teacher=model, progress=False)
    assert distance() < 0.7 * before


def test_recipes_and_rules_know_the_new_one():
    recipe = Recipe(name="mine", rules=(Rule(), Rule(op="hard_swish", mode="float")), replace={"silu": "hard_swish"})
    assert "replace:\n  silu: hard_swish\n" in recipe_yaml(recipe)
    assert "replace" not in recipe_yaml(load_recipe("static_wi8_ai8"))
    rows = qat.plan(Net(F.silu, F.silu).eval(), IMAGES, recipe).table()
    assert [row["runs"] for row in rows if row["op"] == "hard_swish"] == ["float", "float"]
    prepared = qat.prepare(Net(F.silu, F.silu).eval(), IMAGES, recipe)
    with torch.no_grad():
        torch.testing.assert_close(prepared.eval()(IMAGES), Net(F.hardswish, F.hardswish)(IMAGES))


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        ({"silo": "relu"}, "'silo' (did you mean 'silu'?) is no activation that can be replaced"),
        ({"silu": "leaky_relu"}, "is no activation that can replace another; valid: sigmoid"),
        ({"conv2d": "relu"}, "'conv2d' is no activation that can be replaced"),
    ],
)
def test_a_replacement_that_is_none_is_said(replace, said):
    with pytest.raises(ConfigError, match="replace") as error:
        qat.prepare(Net(F.silu, F.silu).eval(), IMAGES, replace=replace)
    assert said in str(error.value)
    with pytest.raises(ValueError, match="replace"):
        Recipe(name="mine", rules=(Rule(),), replace=replace)


def test_a_model_without_the_activation_is_warned_of(caplog: pytest.LogCaptureFixture):
    qat.prepare(Net(F.relu, F.relu).eval(), IMAGES, replace={"silu": "relu"})
    assert "the model has no silu that relu could replace" in caplog.text


def test_what_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"replace names activations by those that they replace, .* not 'silu'"):
        load_recipe("static_wi8_ai8").replacing("silu")

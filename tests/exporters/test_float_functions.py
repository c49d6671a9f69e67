"""A float softmax, sigmoid, tanh or running sum is equal in every bit to the runtime's, on processors whose kernels are known."""

import keras
import numpy as np
import pytest
import torch

import qat
from qat.planning.recipe import Recipe
from qat.system.machine import processor

X = np.random.default_rng(0).normal(size=(32, 8)).astype("f")
KNOWN = processor().features.get("AVX2")
TARGETS = pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
RECIPE = Recipe.model_validate({"name": "own", "rules": [{}, *({"op": f, "mode": "float"} for f in ("sigmoid", "tanh", "silu"))]})


def _dense(units):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))


@pytest.mark.skipif(not KNOWN, reason="the processor has other kernels")
@TARGETS
@pytest.mark.parametrize(
    "functions", [("softmax", None), ("sigmoid", "tanh"), ("silu", "tanh")], ids=["softmax", "sigmoid and tanh", "silu and tanh"]
)
def test_heads_that_stay_float_are_exact(target, suffix, functions, tmp_path):
    keras.utils.set_random_seed(0)
    entry = keras.Input((8,))
    middle = keras.layers.Dense(16, activation="relu")(entry)
    heads = [keras.layers.Activation(f) if f else keras.layers.Softmax() for f in functions]
    pixels = keras.layers.Reshape((1500, 3))(_dense(4500)(middle))
    outputs = [head(x) for head, x in zip(heads, (_dense(107)(middle), pixels), strict=True)]
    prepared = qat.calibrate(qat.prepare(keras.Model(entry, outputs), recipe=RECIPE, target=target), [X])
    assert len(prepared.plan.floats()) == 2
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1


class Heads(torch.nn.Module):
    """A softmax of classes and one of pixels, or a sigmoid and a tanh."""

    def __init__(self, functions):
        super().__init__()
        self.functions, self.first = functions, torch.nn.Linear(8, 16)
        self.scores, self.pixels = torch.nn.Linear(16, 107), torch.nn.Linear(16, 4500)
        for head in (self.scores, self.pixels):
            torch.nn.init.normal_(head.weight, std=2.0)

    def forward(self, x):
        y = self.first(x).relu()
        first, second = self.functions
        return first(self.scores(y)), second(self.pixels(y).view(-1, 3, 1500))


def _over(axis):
    return lambda x: x.softmax(axis)


@pytest.mark.skipif(not KNOWN, reason="the processor has other kernels")
@TARGETS
@pytest.mark.parametrize(
    "functions",
    [
        (_over(-1), _over(1)),
        (torch.sigmoid, torch.tanh),
        (torch.nn.functional.silu, torch.tanh),
        (lambda x: x.cumsum(1), lambda x: x.cumsum(2)),
    ],
    ids=["softmax", "sigmoid and tanh", "silu and tanh", "running sum"],
)
def test_pytorch_heads_that_stay_float_are_exact(target, suffix, functions, tmp_path):
    torch.manual_seed(0)
    x = torch.from_numpy(X)
    prepared = qat.calibrate(qat.prepare(Heads(functions).eval(), x[:2], RECIPE, target=target), [x])
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1
    y = prepared(x)
    assert all(t.requires_grad for t in y)
    torch.stack([t.square().sum() for t in y]).sum().backward()
    assert prepared.get_parameter("first.weight").grad.abs().sum() > 0


def test_an_output_that_is_one_number_is_off_by_float32s_rounding_alone(tmp_path):
    entry = keras.Input((8,))
    model = keras.Model(entry, keras.layers.Softmax()(keras.layers.Dense(1)(entry)))
    prepared = qat.calibrate(qat.prepare(model, target="litert"), [X])
    parity = qat.export(prepared, tmp_path / "m.tflite", verify=[X]).parity
    assert parity.exact == 1 or parity.is_rounding  # TensorFlow has 1 - 2^-24 in some versions

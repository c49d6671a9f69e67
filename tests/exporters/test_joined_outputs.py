"""Tensors of very different ranges that a model joins: each keeps its values, or calibration says which one does not."""

import importlib.util
import logging

import numpy as np
import pytest

import qat
from qat.planning.recipe import Recipe, Rule
from qat.runtimes import open_session


def of_torch(join):
    import torch
    from torch import nn

    class Head(nn.Module):
        """Boxes of 0 to 80 beside scores of 0.04 to 0.05."""

        def __init__(self):
            super().__init__()
            self.stem, self.boxes, self.scores = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
            self.last = nn.Conv2d(8, 2, 1) if join == "within" else nn.Identity()
            self.scores.bias.data[:] = 5

        def forward(self, x):
            y = self.stem(x).relu()
            parts = [64 + 50 * self.boxes(y).tanh(), 0.01 * self.scores(y)]
            return torch.stack(parts, 1) if join == "stack" else self.last(torch.cat(parts, 1)).flatten(2)

    torch.manual_seed(0)
    return Head().eval(), torch.rand(4, 3, 16, 16)


def of_keras(join):
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    y = layers.Conv2D(8, 3, activation="relu")(inputs)
    boxes = layers.Rescaling(50.0, 64.0)(layers.Conv2D(4, 1, activation="tanh", name="boxes")(y))
    scores = layers.Conv2D(4, 1, bias_initializer=keras.initializers.Constant(5), name="scores")(y)
    scores = layers.Rescaling(0.01)(scores)
    if join == "stack":
        return keras.Model(inputs, ops.stack([boxes, scores], 1)), np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
    joined = layers.Concatenate()([boxes, scores])
    out = layers.Conv2D(2, 1)(joined) if join == "within" else layers.Reshape((196, 8))(joined)
    return keras.Model(inputs, out), np.random.default_rng(0).random((4, 16, 16, 3), np.float32)


def prepared(make, join, target, caplog):
    if importlib.util.find_spec(make.__name__.removeprefix("of_")) is None:
        pytest.skip("not installed")
    model, x = make(join)
    with caplog.at_level(logging.WARNING, "qat"):
        return model, x, qat.calibrate(qat.prepare(model, x, target=target), [x])


@pytest.mark.parametrize("join", ["concat", "stack"])
@pytest.mark.parametrize("make", [of_torch, of_keras])
def test_what_is_joined_at_an_output_of_an_onnx_keeps_its_scales(make, join, tmp_path, caplog):
    model, x, quantized = prepared(make, join, "onnxruntime", caplog)
    artifact = qat.export(quantized, tmp_path / "m.onnx", verify=[x])
    assert artifact.parity.exact == 1.0
    assert "share one scale" not in caplog.text
    want = model(x)
    want = np.asarray(want.detach() if make is of_torch else want)
    session, images = open_session(artifact.path), np.asarray(x)
    as_file = images if session.inputs[0].shape[1:] == images.shape[1:] else np.moveaxis(images, -1, 1)
    (got,) = session.run(as_file)
    scores = np.sort(got[got < 1])
    assert len(np.unique(scores)) > 15
    np.testing.assert_allclose(scores, np.sort(want[want < 1]), atol=0.004)


@pytest.mark.parametrize(
    ("make", "target", "join"),
    [
        (of_torch, "litert", "concat"),
        (of_torch, "litert", "stack"),  # Keras's Stack is float
        (of_torch, "onnxruntime", "within"),
        (of_keras, "litert", "concat"),
        (of_keras, "onnxruntime", "within"),
    ],
)
def test_calibration_says_that_a_shared_scale_is_too_coarse_for_one_of_its_tensors(make, target, join, caplog):
    model, x, quantized = prepared(make, join, target, caplog)
    (said,) = [r.getMessage() for r in caplog.records if "share one scale" in r.getMessage()]
    assert "steps of" in said
    option = dict(part.split(": ") for part in said[said.index("{") + 1 : said.index("}")].split(", "))
    rule = {"scope": option["scope"].strip("'"), "op": option["op"], "mode": option["mode"]}
    recipe = Recipe(name="r", rules=(Rule(), Rule(**rule)))
    caplog.clear()
    mended = qat.calibrate(qat.prepare(model, x, recipe, target), [x])
    assert len(mended.plan.floats()) > len(quantized.plan.floats())
    assert "share one scale" not in caplog.text

"""Names lead from the plan to the artifact and from there to a recipe: `inspect` shows the scope of every tensor and weight."""

import re

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.exporters.inspection import inspect
from qat.planning.recipe import Recipe

IMAGES = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        y = self.stem(x)
        return self.head(torch.relu(y + torch.sigmoid(y)).mean((2, 3)))


def model(framework):
    if framework == "torch":
        return Net().eval(), np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    layers, x = keras.layers, keras.Input((6, 6, 3))
    inner = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Conv2D(4, 1)], name="stem")
    y = inner(x)
    y = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([y, layers.Activation("sigmoid")(y)])))
    return keras.Model(x, layers.Dense(3, name="head")(y)), IMAGES


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_scope_of_the_plan_is_in_the_artifact_and_fits_a_rule(framework, target, tmp_path):
    net, x = model(framework)
    plan = qat.plan(net, x, target=target)
    prepared = qat.calibrate(qat.prepare(net, x, target=target), [x])
    path = qat.export(prepared, tmp_path / f"m{plan.target.suffix}").path
    found = inspect(path)
    integer = {row["scope"] for row in plan.table() if row["runs"] == "integer"}
    assert integer == set(found.scopes.values())
    assert {"head", "stem"} <= {scope.partition(".")[0].partition("/")[0] for scope in integer}
    assert set(found.scopes) <= {weight.name for weight in found.weights} | set(found.activations)
    shown = str(found)
    layers = {found.scopes[weight.name] for weight in found.weights if weight.name in found.scopes}
    assert len(layers) == 3 and all(scope in shown for scope in layers)
    for scope in layers:
        recipe = Recipe.model_validate({"name": "own", "rules": [{}, {"scope": f"^{re.escape(scope)}$", "mode": "float"}]})
        rows = {row["scope"]: row["runs"] for row in qat.plan(net, x, recipe, target).table()}
        assert rows[scope] == "float" and {rows[other] for other in layers - {scope}} == {"integer"}


def test_a_file_that_lies_alone_has_no_scopes(tmp_path):
    net, x = model("torch")
    path = qat.export(qat.calibrate(qat.prepare(net, x), [x]), tmp_path / "m.onnx").path
    (tmp_path / "m.onnx.encodings.json").unlink()
    assert inspect(path).scopes == {} and "scope" not in str(inspect(path))

"""Inputs and outputs by name: every call takes a dictionary in any order for the tuple that it stands for, in both frameworks."""

import logging

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import DataError

RANDOM = np.random.default_rng(0)
LEFT, RIGHT = (RANDOM.normal(size=(64, 6)).astype(np.float32) for _ in range(2))
LABELS = {"kind": LEFT.argmax(1) % 3, "size": LEFT.sum(1) - RIGHT[:, 0]}
METRICS = [{"name": "top1", "output": "kind"}, {"name": "mae", "output": "size"}]
BY_NAME = {"right": RIGHT, "left": LEFT}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.kind, self.size = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, left, right):
        h = torch.relu(self.a(left) - self.b(right))
        return {"kind": self.kind(h), "size": self.size(h)}


def model(form):
    if form == "torch":
        torch.manual_seed(0)
        return Net().eval()
    keras.utils.set_random_seed(0)
    layers, left, right = keras.layers, keras.Input((6,), name="left"), keras.Input((6,), name="right")
    h = layers.ReLU()(layers.Subtract()([layers.Dense(8)(left), layers.Dense(8)(right)]))
    outputs = {"kind": layers.Dense(3)(h), "size": layers.Dense(1)(h)}
    return keras.Model({"left": left, "right": right} if form == "keras by name" else [left, right], outputs)


def loss(outputs, labels):
    if isinstance(outputs["kind"], torch.Tensor):
        off = nn.functional.mse_loss(outputs["size"][:, 0], labels["size"])
        return nn.functional.cross_entropy(outputs["kind"], labels["kind"].long()) + off
    classes = keras.losses.sparse_categorical_crossentropy(labels["kind"], outputs["kind"], from_logits=True)
    return keras.ops.mean(classes) + keras.ops.mean((outputs["size"][:, 0] - labels["size"]) ** 2)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("form", ["torch", pytest.param("keras", marks=SLOW), pytest.param("keras by name", marks=SLOW)])
def test_a_dictionary_of_inputs_is_the_tuple_in_the_models_order(form, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "qat")
    found = {}
    for inputs in ((LEFT, RIGHT), BY_NAME):
        net, data = model(form), [(inputs, LABELS)]
        prepared = qat.calibrate(qat.prepare(net, inputs, target="litert"), [inputs])
        before = qat.evaluate(net, data, metrics=METRICS)
        history = qat.finetune(prepared, data * 4, data, loss=loss, metrics=METRICS, progress=False)
        qat.correct_biases(prepared, [inputs])
        artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[inputs], overwrite=True)
        assert artifact.parity.exact == 1.0
        made = qat.ptq_baselines(net, [inputs], tmp_path / "ptq", overwrite=True, target="litert")
        assert [b.error for b in made if b.error] == []
        report = qat.compare([*made, artifact], data, metrics=METRICS, latency_runs=0)
        assert report.entries[0].metrics == pytest.approx(before, abs=1e-4)
        unlabelled = qat.compare([net, prepared], [inputs], latency_runs=0)
        found[type(inputs)] = (
            before, history.epochs[-1].metrics, [dict(e.metrics) for e in report.entries], unlabelled.entries[1].sqnr
        )  # fmt: skip
    assert found[dict] == found[tuple]
    assert "takes no zero outputs" not in caplog.text


@pytest.mark.parametrize("form", ["torch", "keras", "keras by name"])
@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"left": LEFT, "rigth": RIGHT}, "there is no input 'rigth': the model's inputs are left, right"),
        ({"left": LEFT}, "the input 'right' is not given: the model's inputs are left, right"),
    ],
)
def test_a_wrong_name_is_said(form, inputs, said):
    net = model(form)
    prepared = qat.prepare(net, (LEFT, RIGHT))
    for call in (lambda: qat.calibrate(prepared, [inputs]), lambda: qat.ptq_baselines(net, [inputs], "never written")):
        with pytest.raises(DataError, match=said):
            call()

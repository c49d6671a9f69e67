"""Batches in any nest, in every call: Hugging Face's mappings, dataclasses, nested labels."""

import dataclasses
from collections import UserDict
from typing import NamedTuple

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import DataError
from qat.system.samples import parts_of


class Encoding(UserDict):
    """What a tokenizer of Hugging Face returns."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        h = self.embedding(input_ids)
        h = h if token_type_ids is None else h * (1 + token_type_ids[..., None].float())
        return {"logits": self.head(h.mean(1))}


@dataclasses.dataclass
class Labels:
    classes: torch.Tensor
    boxes: torch.Tensor


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids, kinds = torch.randint(0, 20, (8, 6)), torch.randint(0, 2, (8, 6))
    return Encoding(token_type_ids=kinds, input_ids=ids, labels=torch.randint(0, 3, (8,)))


def test_a_batch_of_hugging_face_goes_through_every_call(batch, tmp_path):
    net, inputs = Net(), Encoding({name: x for name, x in batch.items() if name != "labels"})
    prepared = qat.calibrate(qat.prepare(net, inputs), [batch])
    history = qat.finetune(prepared, [batch], [batch], epochs=1, teacher=net, progress=False)
    assert history.epochs[0].metrics == qat.evaluate(prepared, [batch], progress=False)
    assert qat.evaluate(net, [batch], progress=False).keys() == {"top1"}
    qat.adaround(prepared, [batch], steps=2, progress=False)
    artifact = qat.export(prepared, tmp_path / "net.onnx", verify=[batch])
    assert artifact.parity.exact == 1.0
    report = qat.compare([net, artifact.path], [batch], latency_runs=0)
    assert [entry.top1 is not None for entry in report.entries] == [True, True]
    assert all(baseline.error is None for baseline in qat.ptq_baselines(net, [batch], tmp_path / "ptq")[:2])


@dataclasses.dataclass
class Picture:
    image: torch.Tensor
    scale: torch.Tensor | None = None
    doubled: bool = True


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor | None


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, picture):
        y = self.head(picture.image)
        y = y if picture.scale is None else y * picture.scale
        return y + y if picture.doubled else y


class Pairs(Pictures):
    def forward(self, pair, mode="sum"):
        y = self.head(pair.left)
        return y if pair.right is None or mode != "sum" else y + self.head(pair.right)


NESTED = {
    "dataclass": (Pictures, Picture(torch.rand(8, 6), torch.rand(8, 3))),
    "dataclass with None": (Pictures, Picture(torch.rand(8, 6), doubled=False)),
    "named tuple": (Pairs, Pair(torch.rand(8, 6), torch.rand(8, 6))),
    "named tuple with None": (Pairs, Pair(torch.rand(8, 6), None)),
    "settings": (Pairs, {"pair": Pair(torch.rand(8, 6), torch.rand(8, 6)), "mode": "left"}),
}


@pytest.mark.parametrize("name", NESTED)
def test_containers_with_settings_are_taken_as_the_model_takes_them(name, tmp_path):
    make, inputs = NESTED[name]
    data = [(inputs, torch.randint(0, 3, (8,)))]
    net = make()
    prepared = qat.calibrate(qat.prepare(net, inputs), data)
    qat.finetune(prepared, data, epochs=1, teacher=net, progress=False)
    artifact = qat.export(prepared, tmp_path / "net.onnx", verify=data)
    assert artifact.parity.exact == 1.0
    assert qat.evaluate(net, data, progress=False).keys() == {"top1"}
    call = (lambda m: m(**inputs)) if isinstance(inputs, dict) else (lambda m: m(inputs))
    torch.testing.assert_close(call(prepared.eval()), call(net), atol=0.1, rtol=0.1)


@dataclasses.dataclass
class Example:
    values: torch.Tensor
    negated: bool


class OfExample(nn.Module):
    """Takes a dataclass with a flag."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(5, 3)

    def forward(self, example):
        return self.layer(-example.values if example.negated else example.values)


def test_what_judges_a_float_model_takes_nested_arguments(tmp_path):
    net = OfExample().eval()
    data = [(Example(torch.randn(60, 5), True), torch.randint(0, 3, (60,))) for _ in range(2)]
    prepared = qat.calibrate(qat.prepare(net, data[0][0]), [x for x, _ in data])
    report = qat.compare({"float": net, "prepared": prepared}, data, latency_runs=0)
    assert report.entries[1].agreement > 90
    assert not [made.name for made in qat.ptq_baselines(net, data, tmp_path) if made.error]
    (checked,) = (check for check in qat.check_data(data, model=net, progress=False).checks if check.name == "model")
    assert checked.status == "passed"


def test_a_setting_that_the_model_was_not_prepared_with_is_said():
    _, inputs = NESTED["dataclass"]
    prepared = qat.prepare(Pictures(), inputs)
    with pytest.raises(DataError, match="'doubled' is False, and the model was prepared with True: prepare it with"):
        qat.calibrate(prepared, [dataclasses.replace(inputs, doubled=False)])


def test_a_float_module_gets_its_arguments_by_name_and_its_defaults_between(batch):
    net = Net()
    net.forward = lambda input_ids, scale=2.0, token_type_ids=None: Net.forward(net, input_ids, token_type_ids)["logits"] * scale
    assert qat.evaluate(net, [batch], progress=False).keys() == {"top1"}
    with pytest.raises(DataError, match=r"there is no input 'pixels': the model's inputs are input_ids, scale, token_type_ids"):
        qat.evaluate(net, [Encoding(pixels=batch["input_ids"], input_ids=batch["input_ids"], labels=batch["labels"])])


def nested(kind, classes, boxes):
    return {
        "tuple": (classes, boxes), "dict": {"classes": classes, "boxes": boxes}, "dataclass": Labels(classes, boxes),
        "deep": [classes, {"more": (boxes,)}],
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass", "deep"])
def test_labels_reach_the_loss_as_they_were_given(kind, batch):
    seen = []

    def loss(outputs, labels):
        seen.append(labels)
        return outputs["logits"].square().mean()

    inputs = {"input_ids": batch["input_ids"]}
    model = qat.calibrate(qat.prepare(Net(), inputs), [inputs])
    labels = nested(kind, batch["labels"].numpy(), np.ones((8, 2), np.float32))
    qat.finetune(model, [(inputs, labels)], loss=loss, epochs=1, progress=False)
    assert type(seen[0]) is type(labels)
    classes = {"dict": "classes"}.get(kind, 0)
    found = seen[0].classes if kind == "dataclass" else seen[0][classes]
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == batch["labels"].tolist()


@pytest.mark.parametrize("kind", ["tuple", "dict", "deep"])
def test_keras_takes_nested_labels_and_inputs_by_name(kind, tmp_path):
    a, b = keras.Input((8,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(3)(keras.layers.Concatenate()([a, b])))
    x = Encoding(b=np.ones((8, 4), np.float32), a=np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32))
    prepared = qat.calibrate(qat.prepare(model), [x])
    seen = []

    def loss(outputs, labels):
        seen.append(labels)
        return keras.ops.mean(outputs**2)

    labels = nested(kind, np.arange(8), np.ones((8, 2), np.float32))
    qat.finetune(prepared, [(x, labels)], loss=loss, epochs=1, progress=False)
    assert len(seen[0]) == 2
    assert qat.evaluate(prepared, [(x, np.zeros(8, int))], progress=False).keys() == {"top1"}
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("loss", [None, "mse"])
def test_weights_of_samples_weigh_their_losses(framework, loss):
    random = np.random.default_rng(0)
    x, w = random.normal(size=(6, 4)).astype(np.float32), np.array([0, 2, 0, 1, 0, 3], np.float32)
    y = random.integers(0, 3, 6) if loss is None else random.normal(size=(6, 3)).astype(np.float32)
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    net = nn.Linear(4, 3) if framework == "torch" else keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    options = {"loss": loss, "epochs": 1, "learning_rate": 1e-9, "progress": False}

    def loss_of(batch):
        prepared = qat.calibrate(qat.prepare(net, x if framework == "torch" else None), [x])
        return qat.finetune(prepared, [batch], **options).epochs[0].loss

    expected = sum(weight * loss_of((x[[i]], y[[i]])) for weight, i in ((2, 1), (1, 3), (3, 5))) / 6
    assert loss_of((x, y, w)) == pytest.approx(expected, rel=1e-5)
    prepared = qat.calibrate(qat.prepare(net, x if framework == "torch" else None), [(x, y, w)])
    assert qat.evaluate(prepared, [(x, y, w)]) == qat.evaluate(prepared, [(x, y)])


def test_one_rule_takes_batches_apart():
    x, y, w = np.ones((2, 3)), np.zeros(2), np.ones(2)
    assert parts_of(x).inputs is x
    assert parts_of([x]).inputs is x
    assert parts_of((x, y, w)).weights is w
    assert parts_of((x, y), inputs=2).labels is None
    assert parts_of(((x, y), w), inputs=2).labels is w
    assert parts_of(Encoding(input_ids=x, mask=y, labels=w)).labels is w
    assert parts_of(Encoding(input_ids=x, labels=w)).inputs is x

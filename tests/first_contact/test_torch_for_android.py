"""A user of PyTorch who ships to a phone: README's calls, then the lines of docs/python_runtime.md, from an empty folder."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import qat
from qat.runs import datasets

torch = pytest.importorskip("torch")
Interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
            torch.nn.Conv2d(16, 16, 3, stride=2), torch.nn.ReLU(),
        )  # fmt: skip
        self.head = torch.nn.Linear(16 * 9, 10)

    def forward(self, image):
        return {"scores": self.head(self.features(image).flatten(1))}


def loss(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs["scores"], torch.as_tensor(labels))


@pytest.mark.slow
@pytest.mark.ci
def test_a_trained_model_is_on_the_phone_with_the_names_and_the_images_that_a_phone_has(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    data = datasets.digits()
    train, test = (data.batches(split, 32, "NCHW", limit=480) for split in ("train", "test"))
    float_model = Digits()
    optimizer = torch.optim.Adam(float_model.parameters(), 0.01)
    for _ in range(3):
        for x, y in train:
            optimizer.zero_grad()
            loss(float_model(torch.as_tensor(x)), y).backward()
            optimizer.step()
    float_model.eval()
    held_out = [x for x, _ in test]

    model = qat.prepare(float_model, torch.as_tensor(held_out[0]), target="litert")
    qat.calibrate(model, [x for x, _ in train])
    qat.finetune(model, train, epochs=1, loss=loss, progress=False)
    with caplog.at_level(logging.WARNING, "qat"):
        artifact = qat.export(model, "digits.tflite", verify=held_out, io_dtype="uint8")
    assert artifact.parity.exact == 1.0
    assert "digits.tflite takes and returns images as NHWC" in caplog.text

    interpreter = Interpreter("digits.tflite")
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["scores"]}}
    run = interpreter.get_signature_runner()
    taken = run.get_input_details()["image"]
    assert tuple(taken["shape_signature"]) == (-1, 8, 8, 1)
    scale, zero_point = taken["quantization"]
    right = total = 0
    for x, y in test:
        images = np.transpose(x, (0, 2, 3, 1))
        integers = np.clip(np.rint(images * np.float32(1 / scale)) + zero_point, 0, 255).astype(np.uint8)
        scores = run(image=integers)["scores"]
        assert scores.dtype == np.uint8
        right, total = right + int((scores.argmax(1) == y).sum()), total + len(y)
    assert right / total > 0.85

"""A user who puts a new head on a trained, frozen body: the body stays frozen through QAT, the head goes on learning."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import qat

torch = pytest.importorskip("torch")


def fit(model, images, labels, epochs):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(epochs):
        for i in range(0, len(images) - 31, 32):
            optimizer.zero_grad()
            x, y = torch.from_numpy(images[i : i + 32]), torch.from_numpy(labels[i : i + 32])
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_the_frozen_body_stays_and_the_head_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = digits.images.astype(np.float32)[:, None] / 16, digits.target
    old, new = labels < 5, labels >= 5
    body = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, 2),
        torch.nn.ReLU(), torch.nn.Flatten(),
    )  # fmt: skip
    fit(torch.nn.Sequential(body, torch.nn.Linear(144, 5)), images[old], labels[old], 4)
    for parameter in body.parameters():
        parameter.requires_grad = False
    x, y = images[new], labels[new] - 5
    float_model = fit(torch.nn.Sequential(body.eval(), torch.nn.Linear(144, 5)), x[:600], y[:600], 8)
    train_data = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 576, 32)]
    test_data = [(x[i : i + 32], y[i : i + 32]) for i in range(600, 856, 32)]

    model = qat.prepare(float_model, train_data[0][0])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    qat.calibrate(model, train_data)
    history = qat.finetune(model, train_data, test_data, epochs=2, progress=False)
    artifact = qat.export(model, "model.onnx", verify=test_data)

    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter.detach(), before[name])}
    assert moved == {"1.weight", "1.bias"}
    assert artifact.parity.exact == 1.0
    assert history.epochs[-1].metrics["top1"] > 85

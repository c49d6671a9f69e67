"""A user who has inputs alone: the float model teaches the int8 one, at 4 bits, where calibration is not enough."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import qat

torch = pytest.importorskip("torch")


@pytest.mark.slow
def test_training_without_labels_mends_what_four_bits_break(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = digits.images.astype(np.float32)[:, None] / 16, digits.target
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    float_model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(float_model.parameters(), 0.005)
    for _ in range(6):
        for i in range(0, 1200, 40):
            optimizer.zero_grad()
            x, y = torch.from_numpy(images[i : i + 40]), torch.from_numpy(labels[i : i + 40])
            torch.nn.functional.cross_entropy(float_model(x), y).backward()
            optimizer.step()
    float_model.eval()
    inputs = [images[i : i + 40] for i in range(0, 1200, 40)]
    held_out = [images[i : i + 40] for i in range(1200, 1760, 40)]

    def agreement(path):
        report = qat.compare([float_model, path], held_out)
        return report.entries[1].agreement

    model = qat.prepare(float_model, inputs[0], recipe="static_wi4_ai8")
    qat.calibrate(model, inputs)
    calibrated = agreement(qat.export(model, "calibrated.onnx", verify=held_out))
    history = qat.finetune(model, inputs, steps=60, progress=False)
    artifact = qat.export(model, "trained.onnx", verify=held_out)
    assert artifact.parity.exact == 1.0
    assert agreement(artifact) >= calibrated
    assert agreement(artifact) > 97
    assert history.losses

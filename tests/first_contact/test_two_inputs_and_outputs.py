"""A user whose model takes two inputs and has two heads, trained by a loss of their own; the artifact keeps the heads' names."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import qat
from qat.runtimes import open_session

torch = pytest.importorskip("torch")


class TwoHeads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.rows = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(8, 16)
        self.digit, self.ink = torch.nn.Linear(8 * 36 + 16, 10), torch.nn.Linear(8 * 36 + 16, 1)

    def forward(self, image, rows):
        h = torch.cat([torch.relu(self.image(image)).flatten(1), torch.relu(self.rows(rows))], 1)
        return {"digit": self.digit(h), "ink": self.ink(h)}


def loss(outputs, labels):
    digit, ink = labels
    classes = torch.nn.functional.cross_entropy(outputs["digit"], torch.as_tensor(digit))
    return classes + torch.nn.functional.mse_loss(outputs["ink"], torch.as_tensor(ink))


@pytest.mark.slow
def test_each_head_is_trained_and_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = load_digits()
    images = digits.images[:640].astype(np.float32)[:, None] / 16
    rows, ink = images.mean((1, 3)), images.mean((1, 2, 3))[:, None]
    batches = [((images[i : i + 32], rows[i : i + 32]), (digits.target[i : i + 32], ink[i : i + 32])) for i in range(0, 640, 32)]
    train_data, test_data = batches[:16], batches[16:]
    float_model = TwoHeads()
    optimizer = torch.optim.Adam(float_model.parameters(), 0.01)
    for _ in range(6):
        for (image, row), labels in train_data:
            optimizer.zero_grad()
            loss(float_model(torch.from_numpy(image), torch.from_numpy(row)), labels).backward()
            optimizer.step()
    float_model.eval()
    samples = [inputs for inputs, _ in train_data]

    model = qat.prepare(float_model, samples[0])
    qat.calibrate(model, samples)
    qat.finetune(model, train_data, loss=loss, epochs=1, progress=False)
    artifact = qat.export(model, "model.onnx", verify=[inputs for inputs, _ in test_data])

    assert artifact.parity.exact == 1.0
    session = open_session("model.onnx")
    assert [value.name for value in session.inputs] == ["image", "rows"]
    assert [value.name for value in session.outputs] == ["digit", "ink"]
    pairs = [(session.run(*inputs), labels) for inputs, labels in test_data]
    right = np.mean([(outputs[0].argmax(1) == labels[0]).mean() for outputs, labels in pairs])
    error = np.mean([np.abs(outputs[1] - labels[1]).mean() for outputs, labels in pairs])
    assert right > 0.75
    assert error < 0.1
    report = qat.compare([float_model, artifact], [inputs for inputs, _ in test_data])
    assert report.entries[1].sqnr > 15

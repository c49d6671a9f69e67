"""A user who predicts a number: README's five calls, with no word about the task."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import qat

torch = pytest.importorskip("torch")


@pytest.mark.slow
def test_a_number_is_judged_as_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x, y = load_diabetes(return_X_y=True)
    x, y = (x / x.std(0)).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)[:, None]
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)]
    train_data, test_data = batches[:10], batches[10:]
    float_model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(float_model.parameters(), 0.01)
    for _ in range(15):
        for inputs, targets in train_data:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(float_model(torch.from_numpy(inputs)), torch.from_numpy(targets)).backward()
            optimizer.step()
    float_model.eval()
    samples = [inputs for inputs, _ in train_data]

    model = qat.prepare(float_model, samples[0])
    qat.calibrate(model, samples)
    history = qat.finetune(model, train_data, test_data, loss="mse", epochs=2, progress=False)
    artifact = qat.export(model, "model.onnx", verify=[inputs for inputs, _ in test_data])
    report = qat.compare([*qat.ptq_baselines(float_model, samples, "out"), artifact], test_data)

    assert artifact.parity.exact == 1.0
    assert set(history.epochs[-1].metrics) == {"mse", "mae"}
    found = {entry.name: entry.metrics["mse"] for entry in report.entries}
    assert found["model"] < 1.15 * found["float"] < 1  # of variance 1
    assert "MSE" in report.decision
    assert "top" not in str(report)

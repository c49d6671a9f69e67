"""Inputs that do not all begin with their samples: recurrent states, and what belongs to all samples, as a mask does."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.runtimes import open_session


class Steps(nn.Module):
    """A step of two layers, each with a state: ``[layers, samples, values]``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.head = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), nn.Linear(8, 3)

    def forward(self, x, states):
        found = []
        for layer, state in zip(self.layers, states.unbind(0), strict=True):
            x = torch.relu(layer(x) + state)
            found.append(x)
        return self.head(x), torch.stack(found)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_state_has_its_samples_on_the_second_axis(suffix, tmp_path):
    samples = [(torch.rand(4, 8), torch.rand(2, 4, 8)) for _ in range(3)]
    model = qat.prepare(Steps(), samples[0], target="onnxruntime" if suffix == ".onnx" else "litert")
    artifact = qat.export(qat.calibrate(model, samples), tmp_path / f"steps{suffix}", verify=samples)
    assert artifact.parity.exact == 1
    scores, states = open_session(artifact.path).run(np.zeros((7, 8), np.float32), np.zeros((2, 7, 8), np.float32))
    assert scores.shape == (7, 3) and states.shape == (2, 7, 8)
    if suffix == ".onnx":
        assert [i.sizes for i in open_session(artifact.path).inputs] == [("batch", 8), (2, "batch", 8)]


class Masked(nn.Module):
    """Attention with a mask of all samples, and with a place for each token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.places = nn.Linear(8, 24), nn.Embedding(6, 8)

    def forward(self, x, mask, places):
        q, k, v = self.qkv(x + self.places(places)).chunk(3, -1)
        return torch.softmax(q @ k.mT / 3 + mask, -1) @ v


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize("batch", [1, 6])  # 6: as many samples as tokens
def test_a_mask_of_all_samples_leaves_the_batch_free(batch, suffix, tmp_path):
    whole = (torch.triu(torch.full((6, 6), -1e4), 1), torch.arange(6))
    samples = [(torch.rand(batch, 6, 8), *whole) for _ in range(2)]
    model = qat.prepare(Masked(), samples[0], target="onnxruntime" if suffix == ".onnx" else "litert")
    artifact = qat.export(qat.calibrate(model, samples), tmp_path / f"masked{suffix}", verify=samples)
    assert artifact.parity.exact == 1
    (found,) = open_session(artifact.path).run(np.zeros((3, 6, 8), np.float32), *(x.numpy() for x in whole))
    assert found.shape == (3, 6, 8)


def _inputs(net, count):
    """Return inputs of so many samples."""
    if net is Steps:
        return torch.rand(count, 8), torch.rand(2, count, 8)
    return torch.rand(count, 6, 8), torch.triu(torch.full((6, 6), -1e4), 1), torch.arange(6)


@pytest.mark.parametrize("net", [Steps, Masked])
def test_what_takes_batches_apart_takes_such_inputs(net, tmp_path):
    torch.manual_seed(0)
    first = lambda outputs: outputs[0] if isinstance(outputs, tuple) else outputs  # noqa: E731
    with torch.no_grad():
        data = [(x, first(net()(*x)).flatten(1).argmax(1)) for x in (_inputs(net, 60) for _ in range(2))]
    model = qat.calibrate(qat.prepare(net(), data[0][0]), data, estimator="importance")
    for known in (model, net()):
        (checked,) = (check for check in qat.check_data(data, model=known).checks if check.name == "model")
        assert checked.status == "passed"
    artifact = qat.export(model, tmp_path / "m.onnx", verify=[x for x, _ in data])
    report = qat.compare({"one": artifact, "other": artifact}, [x for x, _ in data])
    assert artifact.parity.exact == 1 and report.n_eval == 120 and bool(report.samples) == (net is Masked)
    made = qat.ptq_baselines(net(), data, tmp_path, example_inputs=data[0][0])
    assert not [baseline.name for baseline in made if baseline.error]
    (x, *rest), (y, *more) = ([value.numpy() for value in inputs] for inputs, _ in data)
    joined = (np.concatenate([x, y]), *((np.concatenate([rest[0], more[0]], 1),) if net is Steps else rest))
    assert qat.diagnose(made[0].path, artifact.path, joined).facts.samples == 120
    assert qat.sensitivity(model, [x for x, _ in data], progress=False).samples == 120


def test_inputs_of_other_numbers_of_samples_are_named():
    with pytest.raises(qat.QatError, match="the inputs have different numbers of samples: 4, 5"):
        qat.check_data([((np.zeros((4, 8)), np.zeros((5, 3))), np.zeros(4, int))])

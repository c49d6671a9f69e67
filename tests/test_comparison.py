"""Comparison, statistics and reports, on artifacts that run."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import qat
from qat import metrics
from qat.comparison import Entry, decide
from qat.errors import CaptureError, DataError, ExportError, QatError, RuntimeMismatchError
from qat.ptq import float_baseline
from qat.report import write_report


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(32, 1, 6, 6)).astype(np.float32), rng.integers(0, 4, 32)) for _ in range(3)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()


@pytest.fixture(scope="module")
def report(model, batches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    prepared = qat.calibrate(qat.prepare(model, torch.zeros(2, 1, 6, 6)), batches)
    baseline = float_baseline(model, batches[0][0], folder)
    artifact = qat.export(prepared, folder / "m.onnx", verify=batches)
    own = {"error_rate": lambda out, labels: float((out.argmax(-1) != labels).mean())}
    return qat.compare([baseline, artifact, prepared, model], batches, dataset="noise", latency_runs=3, metrics=own)


def test_models_are_judged_as_the_artifacts_they_become(report):
    base, artifact, prepared, again = report.entries
    assert (base.kind, artifact.kind, prepared.kind, again.kind) == ("float", "qat", "qat", "float")
    assert (prepared.top1, prepared.mse) == (artifact.top1, artifact.mse)
    assert (again.delta, again.agreement, again.sqnr) == (0.0, 100.0, float("inf"))
    assert artifact.size_ratio == pytest.approx(base.bytes / artifact.bytes)
    assert artifact.latency_p50 <= artifact.latency_p95
    assert artifact.metrics["error_rate"] == pytest.approx(1 - artifact.top1 / 100)


def test_a_path_is_fed_images_as_its_artifact_takes_them(model, batches, tmp_path):
    prepared = qat.calibrate(qat.prepare(model, torch.zeros(2, 1, 6, 6)), batches)
    paths = [qat.export(prepared, tmp_path / f"{layout}.onnx", layout=layout).path for layout in ("NCHW", "NHWC")]
    as_given, turned = qat.compare([model, *paths], batches, latency_runs=1).entries[1:]
    assert turned.mse == as_given.mse > 0


def test_summary_has_the_promised_keys_and_relative_paths(report, tmp_path):
    path = write_report([report], tmp_path / "run")
    (result,) = json.loads(path.read_text())["results"]
    assert (result["framework"], result["dataset"], result["n_eval"]) == ("torch", "noise", 96)
    entry = result["entries"][1]
    assert {"name", "kind", "tool", "recipe", "path", "bytes", "top1", "agreement", "latency_ms_p50", "parity"} <= set(entry)
    assert {"exact", "top1_agreement", "mean_lsb", "max_lsb"} <= set(entry["parity"])
    assert entry["parity"]["exact"] == 1.0
    assert (path.parent / entry["path"]).is_file()
    assert "| m |" in (path.parent / "summary.md").read_text()
    for plot in ("accuracy", "size", "drift"):
        assert (path.parent / f"torch_{plot}.png").read_bytes()[:4] == b"\x89PNG"


def test_mistakes(model, batches, tmp_path):
    for work, error, message in (
        (lambda: qat.compare([], batches), DataError, "nothing to compare"),
        (lambda: qat.compare([model], []), DataError, "no data"),
        (lambda: qat.compare([tmp_path / "none.onnx"], batches), QatError, "no such artifact"),
        (lambda: qat.compare([{}], batches), CaptureError, "neither a torch"),
        (lambda: qat.compare([model], [(batches[0][0], np.full(32, 9))]), DataError, "label 9 is out of range"),
        (lambda: qat.compare([model], [(batches[0][0][:, :, :5], np.zeros(32, int))]), ExportError, "cannot be exported"),
    ):
        with pytest.raises(error, match=message):
            work()
    (tmp_path / "broken.tflite").write_bytes(b"nothing")
    with pytest.raises(QatError, match=r"not a \.tflite file"):
        qat.compare([tmp_path / "broken.tflite"], batches)
    nan = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with torch.no_grad():
        nan[1].weight.fill_(float("nan"))
    with pytest.raises(RuntimeMismatchError, match="NaN"):
        qat.compare([nan], batches)


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs():
    labels = np.zeros(100, int)
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    a = np.array([right] * 90 + [wrong] * 10)
    b = np.array([right] * 80 + [wrong] * 15 + [right] * 5)
    assert metrics.mcnemar(a, b, labels) == pytest.approx(stats.binomtest(10, 15).pvalue)
    assert metrics.mcnemar(a, a, labels) == 1.0


def test_sqnr_and_drift():
    x = np.array([[3.0, 4.0]])
    assert metrics.sqnr(x, x * 1.1) == pytest.approx(20.0)
    assert metrics.confidence_drift(x, x) == 0.0


def entry(name, kind, top1, delta, p_float, p_ptq=None):
    return Entry(name, kind, "", "int8", None, 1, top1=top1, delta=delta, p_float=p_float, p_best_ptq=p_ptq)


@pytest.mark.parametrize(
    ("entries", "start"),
    [
        ([entry("a", "ptq", 92.0, -0.1, 0.6)], "PTQ is enough"),
        ([entry("a", "ptq", 80.0, -12.0, 1e-9)], "QAT is worth a try"),
        ([entry("a", "ptq", 80.0, -12.0, 1e-9), entry("q", "qat", 91.9, -0.1, 0.5, 1e-9)], "QAT is needed"),
        ([entry("a", "ptq", 80.0, -12.0, 1e-9), entry("q", "qat", 80.1, -11.9, 1e-9, 0.9)], "Neither is enough"),
        ([entry("q", "qat", 91.9, None, None)], "No decision"),
    ],
)
def test_decision(entries, start):
    assert decide(entries).startswith(start)

"""Comparison, statistics and reports, on artifacts that run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import qat
from qat.baselines import float_baseline
from qat.errors import CaptureError, DataError, ExportError, QatError, RuntimeMismatchError
from qat.report import running
from qat.report import statistics as metrics
from qat.report.compare import decide
from qat.report.entry import Entry
from qat.report.render import write_report
from qat.report.report import Report


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


def test_files_run_on_all_threads_and_are_timed_on_one(model, batches, monkeypatch):
    opened = []
    open_session = running.open_session

    def noted(path, threads):
        opened.append(threads)
        return open_session(path, threads=threads)

    monkeypatch.setattr(running, "open_session", noted)
    monkeypatch.setattr(running, "usable_threads", lambda: 2)
    qat.compare([model], batches, latency_runs=1)
    qat.compare([model], batches, latency_runs=0)
    assert opened == [2, 1, 2]


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


def entry(name, kind, top1, delta, p_float, p_ptq=None, low=None, recipe="int8", ms=None):
    return Entry(
        name=name,
        kind=kind,
        recipe=recipe,
        latency_p50=ms,
        path=None,
        bytes=1,
        top1=top1,
        delta=delta,
        p_float=p_float,
        p_best_ptq=p_ptq,
        delta_low=low,
    )


FLOAT = entry("f", "float", 92.1, 0.0, 1.0)


@pytest.mark.parametrize(
    ("entries", "start"),
    [
        ([FLOAT, entry("a", "ptq", 92.0, -0.1, 0.6, low=-0.3)], "PTQ is enough"),
        ([FLOAT, entry("a", "ptq", 92.0, -0.1, 0.6, low=-1.3)], "No decision: the best static int8 PTQ (a) has top-1 92.00 %"),
        ([FLOAT, entry("a", "ptq", 92.1, 0.0, 1.0, low=-12.0)], "No decision: the best static int8 PTQ (a) has top-1 92.10 %"),
        ([FLOAT, entry("a", "ptq", 80.0, -12.0, 1e-9)], "QAT is worth a try"),
        ([FLOAT, entry("a", "ptq", 80.0, -12.0, 1e-9), entry("q", "qat", 91.9, -0.1, 0.5, 1e-9)], "QAT is needed"),
        ([FLOAT, entry("a", "ptq", 80.0, -12.0, 1e-9), entry("q", "qat", 80.1, -11.9, 1e-9, 0.9)], "Neither is enough"),
        ([FLOAT, entry("q", "qat", 91.9, None, None)], "No decision: it needs"),
        ([entry("q", "qat", 91.9, 0.0, 1.0), entry("a", "ptq", 91.9, 0.0, 1.0, low=-0.1)], "No decision: it needs a float"),
    ],
)
def test_decision(entries, start):
    assert decide(entries, 1000).startswith(start)


def test_nothing_is_decided_against_a_float_model_that_has_not_learned():
    ptq = entry("a", "ptq", 92.0, -0.1, 0.6, low=-0.3)
    said = decide([FLOAT, ptq], 1000, commonest=95.0)
    assert said.startswith("No decision: float has 92.10 %, and always answering the most frequent class has 95.00 %")
    said = decide([FLOAT, ptq, entry("c", "control", 94.0, 1.9, 1e-5)], 1000, commonest=10.0)
    assert "float has 92.10 %, and +1.90 after QAT's extra steps" in said
    assert "train the float model first" in said
    for control in (entry("c", "control", 92.5, 0.4, 1e-5), entry("c", "control", 94.0, 1.9, 0.2)):
        assert decide([FLOAT, ptq, control], 1000, commonest=10.0).startswith("PTQ is enough")


def test_difference_interval():
    """As in Agresti & Min 2005, and of some width where no pair disagrees."""
    labels = np.zeros(100, int)
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    a = np.array([right] * 90 + [wrong] * 10)
    b = np.array([right] * 80 + [wrong] * 15 + [right] * 5)
    low, high = metrics.difference_interval(a, b, labels)
    assert (low + high) / 2 == pytest.approx(100 * 5 / 102)
    assert (high - low) / 2 == pytest.approx(100 * 1.96 * np.sqrt(16 - 25 / 102) / 102, rel=1e-3)
    assert metrics.difference_interval(a, a, labels)[0] == pytest.approx(-196 / 102, rel=1e-3)


def test_without_a_float_artifact_the_first_is_the_reference_and_that_is_said(model, batches, tmp_path):
    prepared = qat.calibrate(qat.prepare(model, torch.zeros(2, 1, 6, 6)), batches)
    paths = [qat.export(prepared, tmp_path / f"{name}.onnx").path for name in ("one", "two")]
    found = qat.compare(paths, batches, latency_runs=0)
    assert (found.reference, found.against_float) == ("one", False)
    assert found.entries[1].agreement == 100.0
    assert found.decision.startswith("No decision: it needs a float artifact")
    summary = (write_report([found], tmp_path / "run").parent / "summary.md").read_text()
    assert "No float artifact among these" in summary
    assert "are against the first, one." in summary
    assert "Δ first" in summary


def test_a_file_that_is_slower_than_float_is_said_so_with_what_to_do():
    def entry(name, kind, ms, tool="qat", suffix=".onnx"):
        return Entry(name=name, kind=kind, path=Path(f"{name}{suffix}"), bytes=9, tool=tool, latency_p50=ms)

    def sentences(*entries):
        said = Report("torch", "digits", 9, (entry("float", "float", 1.0, "torch"), *entries), "No decision.").sentences()
        return [s for s in said if "prefer: speed" in s]

    (said,) = sentences(entry("trained", "qat", 1.2), entry("other", "ptq", 1.5, "onnxruntime"), entry("brisk", "ptq", 0.8))
    assert "trained 1.2 ms" in said
    assert "float 1 ms" in said
    assert "other" not in said
    assert "brisk" not in said
    assert not sentences(
        entry("trained", "qat", 1.02),
        entry("lite", "qat", 3.0, suffix=".tflite"),
        entry("untimed", "qat", None),
        entry("control", "control", 1.2),
    )

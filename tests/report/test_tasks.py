"""Comparison of any task: the metric that decides, the distances without one, several inputs and outputs."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import ConfigError, DataError
from qat.report import statistics
from qat.report.decision import decide
from qat.report.entry import Entry
from qat.report.render import write_report
from qat.trainers.metric import Metric
from qat.trainers.metrics import METRICS
from support import task_nets

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])
RANDOM = np.random.default_rng(0)
ROWS, OTHERS = (RANDOM.normal(size=(96, 6)).astype(np.float32) for _ in range(2))
IMAGES = RANDOM.normal(size=(16, 8, 8, 3)).astype(np.float32)


def dense(framework, outputs):
    if framework == "torch":
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs)).eval()
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(outputs)])


def seeded(make, framework):
    """Return a net with the same weights in each test, in eval mode."""
    if framework == "torch":
        torch.manual_seed(0)
        return make(framework).eval()
    keras.utils.set_random_seed(0)
    return make(framework)


def segmenter(framework):
    return seeded(task_nets.segmenter, framework)


def two_heads(framework):
    return seeded(task_nets.two_heads, framework)


def outputs_of(model, *arrays):
    if isinstance(model, nn.Module):
        with torch.no_grad():
            found = model(*(torch.from_numpy(a) for a in arrays))
        return [t.numpy() for t in found] if isinstance(found, tuple) else found.numpy()
    found = model(list(arrays) if len(arrays) > 1 else arrays[0])
    return [np.asarray(t) for t in found] if isinstance(found, list) else np.asarray(found)


def first_class_right(outputs, labels):
    return outputs[0].argmax(-1) == labels[0]


@pytest.mark.slow
@FRAMEWORKS
def test_regression_is_judged_by_its_error(framework, tmp_path):
    model = dense(framework, 2)
    labels = outputs_of(model, ROWS) + RANDOM.normal(scale=0.1, size=(96, 2)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model, ROWS), [ROWS])
    ptq = qat.export(qat.calibrate(qat.prepare(model, ROWS), [ROWS / 4]), tmp_path / f"ptq{prepared.plan.target.suffix}")
    report = qat.compare([model, prepared, ptq], [(ROWS, labels)], latency_runs=0)
    assert [m.name for m in report.measured] == ["mse", "mae"]
    base, made, clipped = report.entries
    assert base.metrics["mse"] == pytest.approx(0.01, rel=0.3)
    assert (base.top1, base.agreement, base.drift) == (None, None, None)
    assert clipped.metrics["mse"] > made.metrics["mse"] and clipped.p_float < 0.01
    assert clipped.delta == pytest.approx(clipped.metrics["mse"] - base.metrics["mse"])
    summary = (write_report([report], tmp_path / "run").parent / "summary.md").read_text()
    assert "| entry | MSE | Δ float | p float | MAE | SQNR dB |" in summary
    assert "top-1" not in summary


@FRAMEWORKS
def test_segmentation_is_judged_by_its_pixels(framework):
    model = segmenter(framework)
    x = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)) if framework == "torch" else IMAGES
    labels = outputs_of(model, x).argmax(1 if framework == "torch" else -1)
    labels[:, 0] = 255
    report = qat.compare([model, qat.calibrate(qat.prepare(model, x), [x])], [(x, labels)], latency_runs=0)
    base, made = report.entries
    assert dict(base.metrics) == {"pixel_accuracy": 100.0, "iou": 100.0}
    assert 90 < made.agreement < 100 and 90 < made.metrics["pixel_accuracy"] < 100


@FRAMEWORKS
def test_without_labels_there_are_distances_and_no_decision(framework, tmp_path):
    model = dense(framework, 3)
    report = qat.compare([model, qat.calibrate(qat.prepare(model, ROWS), [ROWS])], [ROWS], latency_runs=0)
    assert report.decision.startswith("No decision: no metric")
    made = report.entries[1]
    assert made.metrics == {} and made.agreement > 90 and made.sqnr > 20 and made.mse > 0
    assert (
        "| entry | agree % | drift | MSE to float | SQNR dB |"
        in (write_report([report], tmp_path).parent / "summary.md").read_text()
    )


@pytest.mark.slow
@FRAMEWORKS
def test_several_inputs_and_outputs(framework):
    model = two_heads(framework)
    pair = (ROWS, OTHERS)
    prepared = qat.calibrate(qat.prepare(model, pair), [pair])
    scores, value = outputs_of(model, *pair)
    labels = (scores.argmax(-1), value[:, 0])
    unlabelled = qat.compare([model, prepared], [pair], latency_runs=0)
    assert unlabelled.measured == () and unlabelled.entries[1].sqnr > 20
    assert qat.compare([model, prepared], [(pair, labels)], latency_runs=0).measured == ()
    report = qat.compare([model, prepared], [(pair, labels)], metrics=[first_class_right], latency_runs=0)
    assert report.entries[0].metrics["first_class_right"] == 1.0
    assert 0.8 < report.entries[1].metrics["first_class_right"] <= 1.0


def test_metrics_by_name_and_mistakes():
    model, labels = dense("torch", 3), RANDOM.integers(0, 3, 96)
    report = qat.compare([model], [(ROWS, labels)], metrics=["f1", "top1"], latency_runs=0)
    assert list(report.entries[0].metrics) == ["f1", "top1"]
    with pytest.raises(ConfigError, match=r"unknown metric 'topp1' \(did you mean 'top1'\?\)"):
        qat.compare([model], [(ROWS, labels)], metrics=["topp1"])
    with pytest.raises(DataError, match=r"metric 'mae' does not take batch 0 of .*labels of shape"):
        qat.compare([model], [(ROWS, labels)], metrics=["mae"])
    with pytest.raises(DataError, match="figures need labels"):
        qat.compare([model], [ROWS], metrics={"own": lambda outputs, labels: 0.0})


def test_a_metric_of_the_whole_is_resampled_once_for_each_file():
    """mAP of 500 images takes 20 ms, and eight files were resampled against float and against PTQ, float anew each time."""
    made: list[float] = []

    def total(rows):
        made.append(float(np.median(rows)))
        return made[-1]

    metric = Metric("median", METRICS["mae"].values, total=total)
    reference, *files = (RANDOM.normal(size=(40, 2)) + i / 4 for i in range(4))
    alone = [statistics.difference(metric, file, reference) for file in files]
    before, totals = len(made), statistics.Totals()
    made.clear()
    assert [statistics.difference(metric, file, reference, totals) for file in files] == alone
    assert len(made) == before * 4 / 6


def test_bootstrap_of_errors_is_the_paired_t_test_nearly():
    from scipy import stats

    a = RANDOM.exponential(size=400)
    b = a + RANDOM.normal(0.05, 0.5, size=400)
    found = statistics.difference(METRICS["mae"], b, a)
    wanted = stats.ttest_rel(b, a)
    low, high = wanted.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert found.p == pytest.approx(wanted.pvalue, abs=0.03)
    assert statistics.difference(METRICS["mae"], a, a).p == 1.0
    assert statistics.difference(METRICS["mae"], a[:3], b[:3]) is None


def entry(name, kind, mae, base=0.5, p=1.0, p_ptq=None, spread=0.0, recipe="int8", ms=None, size=1):
    delta = mae - base
    return Entry(
        name=name, kind=kind, path=None, recipe=recipe, bytes=size, metrics={"mae": mae}, delta=delta, p_float=p,
        p_best_ptq=p_ptq,
        delta_low=delta - spread, delta_high=delta + spread, latency_p50=ms,
    )  # fmt: skip


FLOAT = entry("f", "float", 0.5)


@pytest.mark.parametrize(
    ("entries", "start"),
    [
        (
            [entry("a", "ptq", 0.499, p=0.6, spread=0.002)],
            "PTQ is enough: the best static int8 PTQ (a) has MAE 0.499, -0.001 to float",
        ),
        ([entry("a", "ptq", 0.502, p=1e-4, spread=0.001)], "PTQ is enough"),
        ([entry("a", "ptq", 0.502, p=0.6, spread=0.05)], "No decision: the best static int8 PTQ (a) has MAE 0.502"),
        ([entry("a", "ptq", 0.7, p=1e-4, spread=0.01)], "QAT is worth a try"),
        ([entry("a", "ptq", 0.7, p=1e-4), entry("q", "qat", 0.51, p=0.2, p_ptq=1e-4)], "QAT is needed"),
        ([entry("a", "ptq", 0.7, p=1e-4), entry("q", "qat", 0.8, p=1e-4, p_ptq=1e-4)], "Neither is enough"),
        (
            [entry("c", "control", 0.4, p=1e-4), entry("a", "ptq", 0.5)],
            "No decision: float has 0.5, and -0.1 after QAT's extra steps",
        ),
    ],
)
def test_lower_is_better(entries, start):
    assert decide([FLOAT, *entries], 1000, metric=METRICS["mae"], hits=False).startswith(start)


def test_static_and_dynamic_ptq_are_two_things():
    static = entry("s", "ptq", 0.7, p=1e-4, ms=1.0)
    dynamic = entry("d", "ptq", 0.5, recipe="dynamic, per channel", ms=3.0)
    qat_ = entry("q", "qat", 0.502, p=0.2, p_ptq=0.5, ms=1.0)
    said = decide([FLOAT, static, dynamic, qat_], 1000, metric=METRICS["mae"], hits=False)
    assert said.startswith("Dynamic PTQ is enough, static is not: the best static int8 PTQ (s) has MAE 0.7")
    assert "the best dynamic PTQ (d) has MAE 0.5" in said
    assert said.endswith("QAT has 0.502, in 1 ms against 3 ms of d.")
    both = decide([FLOAT, entry("s", "ptq", 0.5, ms=1.0), dynamic], 1000, metric=METRICS["mae"], hits=False)
    assert both.startswith("PTQ is enough: the best static int8 PTQ (s)")
    assert both.endswith("the best dynamic PTQ (d) has 0.5, in 3 ms against 1 ms of s.")


def test_a_tie_goes_to_the_quicker_then_to_the_smaller():
    slow, quick = entry("slow", "ptq", 0.5, ms=2.0), entry("quick", "ptq", 0.5, ms=1.0, size=9)
    small = entry("small", "ptq", 0.5, ms=1.0, size=3)
    assert "(quick)" in decide([FLOAT, slow, quick], metric=METRICS["mae"])
    assert "(small)" in decide([FLOAT, slow, quick, small], metric=METRICS["mae"])


def test_a_failed_tool_is_a_row_with_its_whole_reason(tmp_path):
    reason = "RuntimeError: [operator] " + "a long reason " * 12 + "which ends here"
    failed = qat.Baseline(name="tool", kind="ptq", path=None, error=reason)
    report = qat.compare([dense("torch", 3), failed], [(ROWS, np.zeros(96, int))], latency_runs=0)
    printed = " ".join(report.page().text(80).split())
    assert f"tool failed: {reason}" in printed
    assert f"tool failed: {reason}" in (write_report([report], tmp_path).parent / "summary.md").read_text()

"""What `print` and a notebook show of a result: every figure whole at 80 and 200 columns, and a short `repr`."""

import re

import numpy as np
import pytest

import qat
from qat.calibration.calibrate import set_ranges
from qat.exporters.inspection import inspect
from qat.frameworks import adapter_for
from qat.report.entry import Entry
from qat.report.report import Report
from qat.runtimes.model_file import Parity
from qat.trainers.metrics import METRICS

X = np.random.default_rng(0).normal(size=(160, 8, 8, 3)).astype(np.float32)
Y = np.arange(160) % 4


@pytest.fixture(scope="module", params=["torch", "keras"])
def results(request, tmp_path_factory):
    """Every result of a small run, by name."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "torch":
        from torch import nn

        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        x, suffix = np.ascontiguousarray(X.transpose(0, 3, 1, 2)), ".onnx"
    else:
        import keras

        layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
        net = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        x, suffix = X, ".tflite"
    model = qat.prepare(net, x[:2])
    evidence = set_ranges(model, [(x, Y)], None)
    history = qat.finetune(model, [(x, Y)], [(x, Y)], epochs=3, progress=False)
    artifact = qat.export(model, folder / f"model{suffix}", verify=[x])
    report = qat.compare([net, artifact], [(x, Y)], latency_runs=1)
    return {
        "plan": model.plan, "evidence": evidence, "history": history, "artifact": artifact, "parity": artifact.parity,
        "report": report, "inspection": inspect(artifact.path), "entry": report.entries[0], "adapter": adapter_for(request.param),
    }  # fmt: skip


NAMES = ["plan", "evidence", "history", "artifact", "parity", "report", "inspection", "entry"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_repr_is_one_short_line(results, name):
    shown = repr(results[name])
    assert "\n" not in shown
    assert len(shown) < 240
    assert shown.startswith(f"{type(results[name]).__name__}(")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [80, 200, None])
def test_every_cell_is_whole_at_every_width(results, name, width):
    page = results[name].page()
    words = page.text(width).split()
    tables = [block for block in page.blocks if not isinstance(block, str)]
    for table in tables:
        for row in table.rows:
            assert set(" ".join(row).split()) <= {*words, *(word.removesuffix(",") for word in words)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_gets_a_table(results, name):
    html = results[name]._repr_html_()
    assert html.startswith(("<table>", "<p>"))
    assert html.count("<table") == html.count("</table>")


def test_what_a_person_wants_to_see(results, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    seen = {name: str(results[name]) for name in NAMES}
    plan = seen["plan"]
    assert f"{len(results['plan'].ops)} operators, " in plan
    assert "conv2d + relu" in plan and "weight int8 per channel" in plan
    assert seen["evidence"].startswith("calibration saw 160 samples, 4 classes, values from ")
    history = seen["history"]
    assert "3 epochs, 3 steps, " in history and "(best)" in history and "top-1 %" in history
    artifact = seen["artifact"]
    assert str(results["artifact"].path) in artifact and f"{results['artifact'].bytes:,} bytes" in artifact
    assert "100.00 % of outputs equal on 160 samples" in artifact and results["artifact"].target in artifact
    assert "which does not say that the model is good" in seen["report"]
    assert re.search(r"^weights +2 int8", seen["inspection"], re.MULTILINE)


def entry(name, kind, score, parity=None):
    return Entry(
        name=name, kind=kind, path=None, bytes=123456, top1=score, delta=-1.25, p_float=3.2e-5, agreement=100.0, drift=0.0123,
        sqnr=41.5, latency_p50=123.456, metrics={"top5": 100.0}, parity=parity,
    )  # fmt: skip


def test_a_report_of_many_figures_at_80_columns():
    parity = Parity(1.0, 1.0, 0.0, 0.0, 10)
    names = ["float", "onnxruntime_static_percentile", "torch_adaround", "torch_qat"]
    entries = tuple(entry(name, "ptq", 100.0 - i, parity) for i, name in enumerate(names))
    report = Report("torch", "digits", 360, entries, "PTQ is enough.", "float", True, (METRICS["top1"], METRICS["top5"]))
    lines = report.page().text(80).splitlines()
    assert max(map(len, lines)) <= 80
    figures = ["97.00", "-1.25", "3.2e-05", "100.00", "0.0123", "41.5", "121", "123.456"]
    mine = " ".join(line for line in lines if line.startswith("torch_qat")).split()
    assert all(figure in mine for figure in figures)
    assert " ".join(mine).endswith("100.00 %")
    assert report.page().text(200).count("torch_qat") == 1


def test_a_failed_artifact_says_why():
    failed = qat.Baseline(name="tool", kind="ptq", path=None, error="RuntimeError: no such [kernel]")
    assert repr(failed) == "Baseline(tool: failed: RuntimeError: no such [kernel])"
    assert "RuntimeError: no such [kernel]" in str(failed)


def test_a_parity_that_is_nearly_whole_is_not_shown_as_whole():
    assert "100.00 %" not in str(Parity(0.999999, 0.9, 1e-6, 1.0, 10, "conv2d 'a': one value differs"))
    assert "all but 1.0e-06 of outputs equal" in repr(Parity(0.999999, 1.0, 1e-6, 1.0, 10))


def test_float_rounding_is_called_so():
    said = repr(Parity(0.725, 1.0, 1e-5, 1.18e-4, 64))
    assert "all outputs equal on 64 samples but for float32's rounding: 72.50 % in every bit, the others within 0.00012" in said
    assert "rounding" not in repr(Parity(0.999, 1.0, 1e-3, 1.0, 64))

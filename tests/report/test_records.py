"""Files that are given by their paths: those of other tools, and those of a run, are called what they are."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.exporters.inspection import inspect
from qat.report.records import record_of
from qat.report.render import write_report

ROWS = np.random.default_rng(0).normal(size=(32, 40)).astype(np.float32)
LABELS = np.arange(32) % 3


def model(framework):
    if framework == "torch":
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((40,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(3)])


RECIPES = {
    "float": "", "onnxruntime_dynamic": "dynamic", "onnxruntime_static_minmax": "static", "onnxruntime_static_entropy": "static",
    "onnxruntime_static_percentile": "static", "tflite_dynamic": "dynamic", "tflite_float16": "float16", "tflite_int8": "static",
    "tflite_uint8_io": "static", "aeq_dynamic_wi8_afp32": "dynamic", "aeq_weight_only_wi8_afp32": "weight only",
    "aeq_static_wi8_ai8": "static",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "target"), [("torch", None), ("torch", "litert"), ("keras", None)])
def test_files_of_other_tools_are_inspected_and_compared(framework, target, tmp_path):
    made = qat.ptq_baselines(model(framework), [ROWS], tmp_path, target=target)
    assert not [b.error for b in made if b.error]
    for b in made:
        assert inspect(b.path).weights and sum(map(len, inspect(b.path).runs.values()))
        assert (record_of(b.path).kind, record_of(b.path).recipe) == (b.kind, RECIPES[b.name]), b.name
    report = qat.compare([b.path for b in made], [(ROWS, LABELS)], latency_runs=0)
    assert [e.kind for e in report.entries] == [b.kind for b in made]
    # AI Edge Quantizer and ONNX Runtime choose their ranges by 32 samples.
    assert all(e.sqnr > 10 for e in report.entries)
    assert report.against_float


@pytest.mark.slow
def test_compare_says_of_a_runs_files_what_the_run_said(tmp_path):
    net, folder = model("torch"), tmp_path / "artifacts"
    made = qat.ptq_baselines(net, [ROWS], folder)
    from dataclasses import replace

    from qat.baselines import float_baseline

    calibrated = qat.export(qat.calibrate(qat.prepare(net, ROWS), [ROWS]), folder / "torch_calibrated.onnx")
    control = float_baseline(net, ROWS, folder, name="float_control", kind="control")
    said = qat.compare([*made, replace(calibrated, kind="ptq"), control], [(ROWS, LABELS)], framework="torch", latency_runs=0)
    write_report([said], tmp_path)
    again = qat.compare([e.path for e in said.entries], [(ROWS, LABELS)], latency_runs=0)
    assert [(e.name, e.kind, e.recipe) for e in again.entries] == [(e.name, e.kind, e.recipe) for e in said.entries]
    assert again.decision == said.decision
    (tmp_path / "summary.json").unlink()
    assert (record_of(control.path).kind, record_of(control.path).name) == ("control", "torch_float_control")


def test_every_report_leads_to_its_words(tmp_path):
    net = model("torch")
    artifact = qat.export(qat.calibrate(qat.prepare(net, ROWS), [ROWS]), tmp_path / "m.onnx", verify=[ROWS])
    report = qat.compare([net, artifact], [(ROWS, LABELS)], latency_runs=0)
    printed = " ".join(str(report).split())  # of any width
    assert printed.endswith("The words: docs/words.md")
    assert "which does not say that the model is good; look at top-1 and agreement with float" in printed
    assert "docs/words.md" in (write_report([report], tmp_path / "run").parent / "summary.md").read_text()

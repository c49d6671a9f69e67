"""The table of artifact speeds has every row of the coverage table, a failed row says why, and rows that are there are kept."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import artifact_speed
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, Input
from artifact_speed import ROWS, Failed, Speed, enlarged, main, render, row, timed
from sections import machine

import qat
from qat.errors import ConfigError
from qat.runtimes import open_session


def test_every_row_of_the_coverage_table_is_there():
    assert set(ROWS) == {a.key for a in ARCHITECTURES if a.framework in ("torch", "keras")}


def test_images_are_enlarged_and_nothing_else():
    assert enlarged(ROWS["torch/MobileNetV2/onnx"], 224).inputs == (Input("image", 3, 224),)
    audio = ROWS["torch/Audio-M5/onnx"]
    assert enlarged(audio, 224) == audio == enlarged(audio, None)


def test_cells():
    assert str(Speed(0.03, 0.02, 1.0)) == "30.00 | 20.00 | 1.50x |  | 100.00%"
    assert str(Speed(0.02, 0.025, 1.0, 1.25)) == "20.00 | 25.00 | 0.80x | 1.25x | 100.00%"
    assert str(Speed(0.02, 0.025, 1.0, "float")) == "20.00 | 25.00 | 0.80x | float | 100.00%"


def test_a_row_that_fails_says_why(monkeypatch):
    def fails(*_):
        raise ConfigError("no such | recipe")

    monkeypatch.setattr(artifact_speed, "measure", fails)
    assert str(row("torch/MobileNetV2/onnx", 224, 1, None)) == "- | - | - | | failed: ConfigError: no such \\| recipe"


def test_a_file_takes_images_in_its_own_layout(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    model = qat.calibrate(qat.prepare(torch.nn.Conv2d(3, 4, 3), x, target="litert"), [x])
    artifact = qat.export(model, tmp_path / "conv.tflite")
    (taken,) = timed([open_session(artifact.path)], [x[:1]], 2)
    assert taken > 0


def test_an_unknown_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["artifact_speed.py", "MobileNetV9"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown: MobileNetV9; there are torch/MobileNetV2/onnx" in capsys.readouterr().err


def test_rows_are_written_one_by_one_and_kept(monkeypatch, tmp_path):
    output, asked = tmp_path / "speed.md", []

    def found(key, size, runs, keep):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(key)
        return Failed("no reason") if len(asked) == 1 else Speed(0.03, 0.02, 1.0)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["artifact_speed.py", "--output", str(output), *arguments])
        main()

    monkeypatch.setattr(artifact_speed, "measured_apart", found)
    with pytest.raises(KeyboardInterrupt):
        run("--framework", "torch", "--format", "onnx")
    first, second = list(ROWS)[:2]
    assert asked == [first, second]
    assert f"| {ROWS[second].name} | 30.00 | 20.00 | 1.50x |  | 100.00% |" in output.read_text()
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert asked == [first, list(ROWS)[2]]
    asked.clear()
    run("--size", "224", second)
    assert set(json.loads(output.with_suffix(".json").read_text())[machine()]) == {"", "224"}
    assert f"## PyTorch to .onnx, images of 224x224, on {machine()}" in output.read_text()


@pytest.mark.parametrize(("held", "again"), [(None, True), (1.1, False), ("float", False)])
def test_a_slower_row_is_measured_with_prefer_speed(held, again, monkeypatch, tmp_path):
    first = next(iter(ROWS))
    output, asked = tmp_path / "speed.md", []
    rows = {first: asdict(Speed(0.02, 0.03, 1.0, held))}
    output.with_suffix(".json").write_text(json.dumps({machine(): {"": rows}}))

    def found(key, size, runs, keep):
        asked.append(key)
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact_speed, "measured_apart", found)
    monkeypatch.setattr(sys, "argv", ["artifact_speed.py", "--output", str(output)])
    with pytest.raises(KeyboardInterrupt):
        main()
    assert (asked == [first]) is again


def test_rows_of_another_machine_stay():
    here, there = ({"": {"torch/MobileNetV2/onnx": Speed(0.03, int8, 1.0)}} for int8 in (0.02, 0.01))
    page = render({"here": here, "there": there})
    assert "on here\n" in page and "on there\n" in page and "| 1.50x |" in page and "| 3.00x |" in page

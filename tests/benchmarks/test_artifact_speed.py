"""The table of artifact speeds has every row of the coverage table in its framework's own format, and a failed row says why."""

from __future__ import annotations

import sys

import pytest
from architectures import ARCHITECTURES, Input
from artifact_speed import ROWS, Speed, enlarged, main, row

from qat.errors import ConfigError


def test_every_row_of_the_coverage_table_is_there():
    expected = {(a.framework, a.name) for a in ARCHITECTURES if a.framework in ("torch", "keras")}
    assert {(a.framework, a.name) for a in ROWS.values()} == expected
    assert {(a.framework, a.format) for a in ROWS.values()} == {("torch", "onnx"), ("keras", "tflite")}


def test_images_are_enlarged_and_nothing_else():
    assert enlarged(ROWS["torch/MobileNetV2"], 224).inputs == (Input("image", 3, 224),)
    assert enlarged(ROWS["torch/Audio-M5"], 224) == ROWS["torch/Audio-M5"] == enlarged(ROWS["torch/Audio-M5"], None)


def test_cells():
    assert str(Speed(0.03, 0.02, 1.0)) == "30.0 | 20.0 | 1.50x | 100.00%"


def test_a_row_that_fails_says_why(monkeypatch):
    def fails(*_):
        raise ConfigError("no such | recipe")

    monkeypatch.setattr("artifact_speed.measure", fails)
    assert row("torch/MobileNetV2", 224, 1, None) == "- | - | - | failed: ConfigError: no such \\| recipe"


def test_an_unknown_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["artifact_speed.py", "MobileNetV9"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown: MobileNetV9; there are torch/MobileNetV2" in capsys.readouterr().err

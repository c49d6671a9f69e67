"""The curves of a step's growth: their settings, their figures, and the picture of what was kept."""

import json
import subprocess
import sys

import growth
import pytest
from PIL import Image


def test_settings_that_curves_share_are_measured_once(monkeypatch):
    seen, kept = [], []
    monkeypatch.setattr(growth, "seconds_of", lambda setting, runs: seen.append(setting) or {"float": 2.0, "qat": 1.0})
    monkeypatch.setattr(growth, "peak", lambda kind, setting: {"float": 4 * 2**20, "qat": 3 * 2**20}[kind])
    growth.measure(1, lambda found: kept.append(json.dumps(found)))
    assert len(seen) == len(set(seen)) < len(kept)
    found = json.loads(kept[-1])
    assert {name: len(rows) for name, rows in found.items()} == {name: len(v) for name, (_, v) in growth.CURVES.items()}
    assert growth.line("batch", found["batch"][0]) == "| batch 8 | 1000 | 0.50 | 3 | 0.75 |"


@pytest.mark.slow
@pytest.mark.parametrize("kind", growth.KINDS)
def test_accumulated_passes_are_one_update(kind, monkeypatch):
    step = growth.step_of(kind, growth.Setting(batch=2, resolution=32, width=0.5, accumulation=3))
    passes, updates = [], []
    loss, update = growth.F.cross_entropy, growth.torch.optim.SGD.step
    monkeypatch.setattr(growth.F, "cross_entropy", lambda *args: passes.append(1) or loss(*args))
    monkeypatch.setattr(growth.torch.optim.SGD, "step", lambda optimizer: updates.append(1) or update(optimizer))
    step()
    assert (len(passes), len(updates)) == (3, 1)


@pytest.mark.slow
def test_kept_figures_are_drawn(tmp_path):
    row = {"value": 8, "seconds": {"float": 2.0, "qat": 1.0}, "peak": {"float": 2, "qat": 1}}
    kept, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    curves = {name: [row] for name in growth.CURVES}
    kept.write_text(json.dumps({"2 cores of X": curves, "2 cores of Y": {"batch": [row]}}))
    subprocess.run([sys.executable, growth.__file__, "--json", str(kept), "--plot", str(picture), "--render"], check=True)
    with Image.open(picture) as image:
        assert image.width > 1000
        assert image.height > 600  # a row for each machine

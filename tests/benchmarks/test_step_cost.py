"""The table of what a step costs: written from kept figures."""

import json
import subprocess
import sys
import time
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "step_cost.py"


def test_tables_are_written_from_the_kept_figures(tmp_path):
    figures = {
        "mobilenet_v2": {
            "float": {"seconds": 0.2, "ratio": 1.0, "peak": 200 * 2**20, "peak_ratio": 1.0, "version": None},
            "qat": {"seconds": 0.13, "ratio": 0.65, "of_fastest": 1.3, "peak": 110 * 2**20, "peak_ratio": 0.55, "version": None},
            "float_last": {"seconds": 0.1, "ratio": 1.0, "peak": 220 * 2**20, "peak_ratio": 1.1, "version": None},
            "qat_last": {"seconds": 0.09, "ratio": 0.9, "peak": 99 * 2**20, "machine": "2 cores of X", "version": None},
            "qat_auto": {"seconds": 0.08, "ratio": 0.4, "version": None},
            "nncf": {"error": "ImportError: no | such", "ratio": None},
        }
    }
    document, kept = tmp_path / "d.md", tmp_path / "f.json"
    document.write_text("before\n<!-- step cost: begin -->\nold\n<!-- step cost: end -->\nafter\n")
    front = tmp_path / "front.md"
    front.write_text("<!-- headline: begin -->\nold\n<!-- headline: end -->\nafter\n")
    kept.write_text(json.dumps(figures))
    subprocess.run([sys.executable, str(BENCHMARK), "--json", str(kept), "--render", str(document), str(front)], check=True)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| **qat** | 0.65 | 1.30 | 130 | 0.55 | 110 |" in text
    assert "| float, BatchNorm in training mode | 1.00 | - | 200 | 1.00 | 200 |" in text
    assert "| NNCF | none: ImportError: no \\| such |" in text
    text = front.read_text()
    assert "| MobileNetV2 1.0 | **0.90** | 0.80 | 0.45 | float, channels_last, 100 ms |\n" in text
    assert "Measured on 2 cores of X.\n<!-- headline: end -->\nafter\n" in text
    assert "old" not in text


def test_an_unknown_model_is_named():
    done = subprocess.run([sys.executable, str(BENCHMARK), "alexnet"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown model: alexnet; valid: mobilenet_v2, resnet18, efficientnet_b0, mobilenet_v3, unet, vit, keras" in done.stderr


def test_the_fastest_float_step_of_the_run_is_what_all_are_held_against(monkeypatch):
    import step_cost
    from step_rows import MODELS, Kind

    def taking(seconds):
        def build(model, x, labels):
            def step():
                until = time.process_time() + seconds
                while time.process_time() < until:
                    pass

            return step

        return build

    kinds = {
        "float": Kind("float", taking(0.04), rival=True),
        "last": Kind("float, channels_last", taking(0.01), rival=True),
        "folded": Kind("folded", taking(0.002)),
        "qat": Kind("qat", taking(0.02)),
    }
    monkeypatch.setitem(MODELS, "net", ("Net", lambda name: (None, [], []), "net", kinds))
    rows = step_cost.measure("net", list(kinds), 3)
    fastest = rows["last"]["seconds"]
    assert {kind: row["of_fastest"] for kind, row in rows.items()} == {k: row["seconds"] / fastest for k, row in rows.items()}
    assert rows["float"]["of_fastest"] > rows["qat"]["of_fastest"] > rows["last"]["of_fastest"] == 1.0

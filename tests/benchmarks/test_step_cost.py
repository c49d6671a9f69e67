"""The table of what a step costs: written from kept figures."""

import json
import subprocess
import sys
import time
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "step_cost.py"


def test_tables_are_written_from_the_kept_figures(tmp_path):
    new = {
        "mobilenet_v2": {
            "float": {"seconds": 0.2, "ratio": 1.0, "peak": 200 * 2**20, "peak_ratio": 1.0, "version": None},
            "qat": {"seconds": 0.13, "ratio": 0.65, "of_fastest": 1.3, "peak": 110 * 2**20, "peak_ratio": 0.55, "version": None},
            "float_last": {"seconds": 0.1, "ratio": 1.0, "peak": 220 * 2**20, "peak_ratio": 1.1, "version": None},
            "qat_last": {"seconds": 0.09, "ratio": 0.9, "peak": 99 * 2**20, "version": None},
            "qat_auto": {"seconds": 0.08, "ratio": 0.4, "version": None},
            "nncf": {"error": "ImportError: no | such", "ratio": None},
        }
    }
    old = {
        "mobilenet_v2": {
            "float": {"seconds": 0.4, "ratio": 1.0, "version": None},
            "qat": {"seconds": 0.3, "ratio": 0.75, "version": None},
        },
        "resnet18": {
            "float": {"seconds": 0.5, "ratio": 1.0, "version": None},
            "qat": {"seconds": 0.45, "ratio": 0.9, "version": None},
        },
    }
    document, kept = tmp_path / "d.md", tmp_path / "f.json"
    document.write_text("before\n<!-- step cost: begin -->\nold\n<!-- step cost: end -->\nafter\n")
    front = tmp_path / "front.md"
    front.write_text("<!-- headline: begin -->\nold\n<!-- headline: end -->\nafter\n")
    kept.write_text(json.dumps({"2 cores of X, AVX2, VNNI": new, "2 cores of Y, AVX2": old}))
    subprocess.run([sys.executable, str(BENCHMARK), "--json", str(kept), "--render", str(document), str(front)], check=True)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "**MobileNetV2 1.0, 32 images of 64x64, on 2 cores of X, AVX2, VNNI**" in text
    assert "**MobileNetV2 1.0, 32 images of 64x64, on 2 cores of Y, AVX2**" in text
    assert "| **qat** | 0.65 | 1.30 | 130 | 0.55 | 110 |" in text
    assert "| **qat** | 0.75 | - | 300 | - | - |" in text
    assert "| float, BatchNorm in training mode | 1.00 | - | 200 | 1.00 | 200 |" in text
    assert "| NNCF | none: ImportError: no \\| such |" in text
    text = front.read_text()
    assert "| AVX2, VNNI: `gradients: auto` | AVX2, VNNI: peak memory | AVX2: QAT / float step |" in text
    one, another = "**0.90** of 100 ms, float, channels_last", "**0.75** of 400 ms, float, BatchNorm in training mode"
    assert f"| MobileNetV2 1.0 | {one} | 0.80 | 0.45 | {another} | - | - |\n" in text
    assert "| ResNet-18 | - | - | - | **0.90** of 500 ms, float, BatchNorm in training mode | - | - |\n" in text
    assert "Measured on 2 cores of X, AVX2, VNNI; on 2 cores of Y, AVX2.\n<!-- headline: end -->\nafter\n" in text
    assert "old" not in text


def test_figures_of_a_machine_leave_those_of_others(tmp_path, monkeypatch):
    import step_cost
    from step_rows import MODELS, Kind

    kept = tmp_path / "f.json"
    kept.write_text(json.dumps({"another": {"net": {"float": {"seconds": 2.0}}}}))
    rows = {"float": Kind("float", lambda model, x, labels: lambda: None, rival=True)}
    monkeypatch.setitem(MODELS, "net", ("Net", lambda name: (None, [], []), "net", rows))
    monkeypatch.setattr(step_cost, "machine", lambda: "this")
    monkeypatch.setattr(sys, "argv", ["step_cost.py", "net", "--runs", "1", "--no-memory", "--json", str(kept)])
    step_cost.main()
    figures = json.loads(kept.read_text())
    assert figures["another"] == {"net": {"float": {"seconds": 2.0}}}
    assert figures["this"]["net"]["float"]["seconds"] >= 0


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

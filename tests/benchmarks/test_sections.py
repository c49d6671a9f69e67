"""Tables of the benchmarks of cost: written from kept figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FIGURES = {
    "prepare_cost": {
        "resnet18": {"qat": {"prepare": 1.0, "export and verify": 0.5}, "torchao": {"prepare": 2.0, "convert": 4.0}}
    },
    "two_processes": {
        "resnet18": {
            "qat": {"one process, one thread": 100.0, "one process, two threads": 150.0, "two processes, one thread each": 190.0}
        }
    },
    "judging_cost": {"onnx": {"file": 2.0, "prepared model": 4.0, "compare": 2.2, "verify": 6.6}},
}
ROWS = {
    "prepare_cost": "| resnet18 | prepare 1.0, export and verify 0.5 | prepare 2.0, convert 4.0 | **0.25** |",
    "two_processes": "| resnet18, qat | 100 | 150 (1.50) | 190 (1.90) |",
    "judging_cost": "| `.onnx` | 2.0 s | 4.0 s | 2.2 s, **1.10** | 6.6 s, **1.10** |",
}


@pytest.mark.parametrize("benchmark", FIGURES)
def test_a_table_is_written_from_the_kept_figures(benchmark, tmp_path):
    name = benchmark.replace("_", " ")
    document, kept = tmp_path / "d.md", tmp_path / "f.json"
    document.write_text(f"before\n<!-- {name}: begin -->\nold\n<!-- {name}: end -->\nafter\n")
    rows = "formats" if benchmark == "judging_cost" else "models"
    kept.write_text(json.dumps({"machine": "2 cores of X", "images": 100, rows: FIGURES[benchmark]}))
    command = [sys.executable, str(BENCHMARKS / f"{benchmark}.py"), "--json", str(kept), "--render", str(document)]
    subprocess.run(command, check=True)
    text = document.read_text()
    assert text.startswith(f"before\n<!-- {name}: begin -->\n| ")
    assert text.endswith(f"\nMeasured on 2 cores of X.\n<!-- {name}: end -->\nafter\n")
    assert ROWS[benchmark] in text

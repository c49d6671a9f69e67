"""Tables of the benchmarks of cost: written from kept figures."""

import json
import subprocess
import sys
from pathlib import Path

import prepare_cost
import pytest
from sections import machine, options_of, render_or_measure

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
    "judging_cost": {
        "images": 100,
        "formats": {"onnx": {"file": 2.0, "prepared model": 4.0, "compare": 2.2, "verify": 6.6}},
    },
    "evaluation_cost": {"resnet18": {"float": 0.1, "qat": 0.05}},
    "step_profile": {
        "resnet18": {
            "kind": "qat",
            "seconds": 0.2,
            "products": {"float32": 5e10},
            "bandwidth": 1e10,
            "parts": {
                "gradients": {"seconds": 0.15, "operators": 3, "products": 2 * 10**6, "bytes": 2**21, "limit": 0.1},
                "Python and dispatch": {"seconds": 0.05},
            },
        }
    },
}
#: The sections that are not called as their benchmark is.
NAMES = {"evaluation_cost": "evaluation"}
ROWS = {
    "prepare_cost": "| resnet18 | prepare 1.0, export and verify 0.5 | prepare 2.0, convert 4.0 | **0.25** |",
    "two_processes": "| resnet18, qat | 100 | 150 (1.50) | 190 (1.90) |",
    "judging_cost": "| `.onnx` | 2.0 s | 4.0 s | 2.2 s, **1.10** | 6.6 s, **1.10** |",
    "evaluation_cost": "| ResNet-18 | 100 ms | 50 ms | 0.50 |",
    "step_profile": "| gradients | 150.0 | 75% | 3 | 2 | 2 | 100.0 |",
}


@pytest.mark.parametrize("benchmark", FIGURES)
def test_tables_are_written_from_the_kept_figures_of_each_machine(benchmark, tmp_path):
    name = NAMES.get(benchmark, benchmark.replace("_", " "))
    document, kept = tmp_path / "d.md", tmp_path / "f.json"
    document.write_text(f"before\n<!-- {name}: begin -->\nold\n<!-- {name}: end -->\nafter\n")
    kept.write_text(json.dumps({"2 cores of X": FIGURES[benchmark], "2 cores of Y": FIGURES[benchmark]}))
    command = [sys.executable, str(BENCHMARKS / f"{benchmark}.py"), "--json", str(kept), "--render", str(document)]
    subprocess.run(command, check=True)
    text = document.read_text()
    assert text.startswith(f"before\n<!-- {name}: begin -->\n")
    assert text.endswith(f"\nMeasured on 2 cores of Y.\n<!-- {name}: end -->\nafter\n")
    assert "\nMeasured on 2 cores of X.\n" in text
    assert "old" not in text
    assert text.count(ROWS[benchmark]) == 2


def test_figures_of_this_machine_leave_those_of_others(tmp_path, capsys):
    kept = tmp_path / "f.json"
    kept.write_text(json.dumps({"2 cores of X": {"resnet18": 1}}))
    options = options_of("").parse_args(["--json", str(kept)])
    render_or_measure(options, "none", lambda figures: f"{figures}", lambda figures, keep: figures.update(vit=2))
    found = json.loads(kept.read_text())
    assert found.pop("2 cores of X") == {"resnet18": 1}
    assert found == {machine(): {"vit": 2}}
    assert capsys.readouterr().out == f"{{'vit': 2}}\n\nMeasured on {machine()}.\n"


def test_a_process_above_the_limit_is_a_row_of_its_own():
    figures = {"resnet152": {"qat": {"prepare": 5.0, "export and verify": 7.0}, "torchao": {"more than": 240}}}
    row = "| resnet152 | prepare 5.0, export and verify 7.0 | more than 240.0 | **below 0.05** |"
    assert row in prepare_cost.render(figures)

"""`qat sensitivity`: the document has the page's keys, the recipe is one, and a mistake is said before the work."""

import json
import re
from pathlib import Path

from qat.planning.recipe import load_recipe
from support.command_line import CommandLine, tiny_run

ROOT = Path(__file__).parents[3]


def test_the_results_of_a_configuration(tmp_path, capfd):
    qat = CommandLine(tmp_path, capfd)
    config = tiny_run(tmp_path)
    arguments = ("sensitivity", config, "--method", "fast", "--out", tmp_path / "out", "--samples", "64", "--json")
    done = qat(*arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    page = (ROOT / "docs" / "json.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| `qat sensitivity`"))
    assert set(found) == set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert json.loads((tmp_path / "out" / "sensitivity.json").read_text())["layers"] == found["layers"]
    assert load_recipe(tmp_path / "out" / "recipe.yaml").name == found["chosen"]
    losses = {layer["layer"]: layer["loss"] for layer in found["layers"]}
    nodes = json.loads((tmp_path / "out" / "model_explorer.json").read_text())["results"]
    assert {node["value"] for node in nodes.values()} <= set(losses.values()) and len(nodes) >= len(losses) - 1
    assert found["decision"] in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")
    assert found["evaluations"] <= 10 and found["method"] == "fast"
    again = qat(*arguments)
    assert again.returncode == 2 and "exists" in again.stderr
    assert qat(*arguments, "--overwrite").returncode == 0


def test_a_mistake_is_said_before_the_work(tmp_path, capfd):
    done = CommandLine(tmp_path, capfd)("sensitivity", tiny_run(tmp_path), "--what", "weights")
    assert done.returncode == 2 and "did you mean 'weight'" in done.stderr and "done data" not in done.stderr

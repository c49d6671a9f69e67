"""`--json`: one document on the standard output, with the keys that docs/json.md names; the same of an error is one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from qat.cli import app
from qat.cli.result import _plain
from support.command_line import CommandLine, tiny_run
from support.web_pages import unknown_numbers

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text()


def documented(command):
    """Return the keys that the page names for a command."""
    (row,) = (line for line in PAGE.splitlines() if re.match(rf"\|[^|]*`qat {command}`", line))
    return re.findall(r"`(\w+)`", row.split("|")[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def document(folder, capfd):
    """Run a command with --json, and return its document; the keys are those of the page."""

    def run(name, *arguments):
        done = CommandLine(folder, capfd)(name, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert list(found) == documented(name) or set(found) == set(documented(name))
        return found, done

    return run


def test_every_command_has_keys_in_the_page():
    for name in typer.main.get_command(app).commands:
        assert documented(name), name


@pytest.mark.parametrize(("name", "key"), [("recipes", "recipes"), ("configs", "configurations"), ("doctor", "packages")])
def test_lists(document, name, key):
    assert document(name)[0][key]


@pytest.mark.slow
def test_a_run_and_its_parts(document, folder):
    config = tiny_run(folder)
    found, done = document("run", config, "--output", folder / "out")
    assert json.loads((folder / "out" / "summary.json").read_text())["results"] == found["results"]
    assert found["summary"] == str(folder / "out" / "summary.json")
    page = Path(found["report"]).read_text()
    assert all(f'<h2 id="s-{name}">' in page for name in ("size-against-accuracy", "error-by-layer", "training", "calibration"))
    assert unknown_numbers(page, found, until="The plan, layer by layer") == []
    layers = found["results"][0]["layers"]
    assert {"input", "conv", "dense"} <= {layer["kind"] for layer in layers}
    assert {layer["runs"] for layer in layers if layer["kind"] != "input"} == {"integer"}
    assert sum(layer["share"] for layer in layers) == pytest.approx(1, abs=0.01)
    assert set(found["results"][0]["training"]) == {"QAT", "control"}
    assert "done" in done.stderr  # progress goes there
    keys = set(re.findall(r"`(\w+)`", PAGE.partition("| key of an entry")[2].partition("##")[0]))
    for entry in found["results"][0]["entries"]:
        assert set(entry) | {"error", "parity", "metrics"} <= keys
    found, _ = document("train", config, "--output", folder / "out")
    assert Path(found["best"]).is_file()
    assert set(found["epochs"][0]) == {"number", "loss", "metrics", "artifact"}
    artifact = folder / "m.onnx"
    found, _ = document("export", config, found["best"], artifact)
    assert found["parity"]["exact"] == 1.0
    assert found["bytes"] == artifact.stat().st_size
    found, _ = document("compare", config, artifact, folder / "out" / "artifacts" / "torch_float.onnx")
    assert {entry["kind"] for entry in found["results"][0]["entries"]} == {"qat", "float"}
    assert found["report"] is None
    beside = (artifact, folder / "out" / "artifacts" / "torch_float.onnx", "--out", folder / "pair")
    found, _ = document("compare", config, *beside)
    assert Path(found["report"]).is_file() and Path(found["summary"]).is_file()
    found, _ = document("inspect", artifact)
    assert {weight["dtype"] for weight in found["weights"]} == {"int8"}
    assert found["inputs"][0]["shape"] == [None, 1, 8, 8]
    found, _ = document("plan", config)
    assert {operator["runs"] for operator in found["operators"]} == {"integer"}


@pytest.mark.slow
def test_ptq_of_a_keras_model(document, folder):
    (folder / "keras").mkdir()
    config = tiny_run(folder / "keras", "keras")
    found, _ = document("ptq", config, "--output", folder / "ptq")
    assert all(entry["kind"] in ("float", "ptq") for entry in found["results"][0]["entries"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "none.yaml"], "no such file"), (["inspect", "none.onnx"], "no such artifact"),
        (["plan"], "missing argument"), (["recipes", "--jsn"], "no such option"), (["recpes"], "no such command"),
    ],
)  # fmt: skip
def test_an_error_is_one_sentence_and_no_document(folder, capfd, arguments, said):
    done = CommandLine(folder, capfd)(*arguments, "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_what_a_library_prints_does_not_spoil_the_document(folder):
    config = tiny_run(folder)
    (folder / "loud.py").write_text(
        "import os\nfrom qat.runs.zoo_torch import mobilenet_tiny\n\n"
        "def make(**kwargs):\n    print('from Python')\n    os.write(1, b'from C')\n    return mobilenet_tiny(**kwargs)\n"
    )
    config.write_text(config.read_text().replace("qat.runs.zoo_torch:mobilenet_tiny", "loud:make"))
    done = subprocess.run(
        [sys.executable, "-m", "qat", "plan", str(config), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["operators"]
    assert "from Python" in done.stderr and "from C" in done.stderr


def test_numbers_that_are_none_are_null():
    import numpy as np

    found = _plain({"a": float("nan"), "b": (np.float32(1.5), float("inf")), "c": [{"d": np.int64(2)}], "e": None})
    assert found == {"a": None, "b": [1.5, None], "c": [{"d": 2}], "e": None}

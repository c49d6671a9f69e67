"""The command line: exit codes, sentences, files. In a process of its own where Ctrl-C or an import is the point."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import typer

from qat.cli import app
from support.command_line import CommandLine, tiny_run

CONFIGS = Path(__file__).parent.parent / "configs" / "runs"
SLOW_BUT_IN_CI = (pytest.mark.slow, pytest.mark.ci)


@pytest.fixture
def qat(tmp_path, capfd):
    return CommandLine(tmp_path, capfd)


def process(*arguments, **options):
    """Run ``qat ARGUMENTS`` in a process of its own."""
    command = [sys.executable, "-m", "qat", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **options)


BROKEN = """
import torch

def raises():
    return {}["x"]

class Branches(torch.nn.Linear):
    def __init__(self):
        super().__init__(8, 10)

    def forward(self, x):
        return super().forward(x[:, 0, 0] * 2 if x.sum() > 0 else x[:, 0, 0])
"""


@pytest.fixture
def config(tmp_path):
    return tiny_run(tmp_path)


def test_import_brings_no_framework():
    heavy = {"torch", "tensorflow", "keras", "onnx", "numpy", "scipy", "sklearn", "pydantic", "ruamel", "rich", "tqdm", "asyncio"}
    code = (
        f"import sys, qat, qat.cli\nsys.argv = ['qat', '--help']\ntry: qat.cli.main()\nexcept SystemExit: pass\n"
        f"found = {heavy} & set(sys.modules)\nsys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


def test_help_lists_the_commands(qat):
    out = qat("--help").stdout
    for command in ("demo", "run", "ptq", "train", "export", "compare", "plan", "recipes", "inspect", "doctor"):
        assert command in out


def test_every_command_takes_the_common_options():
    commands = typer.main.get_command(app).commands
    assert len(commands) >= 10
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"-v", "--verbose", "-q", "--quiet", "--version"} <= options, name


@pytest.mark.parametrize("arguments", [["-h"], ["run", "-h"], ["inspect", "-h"]])
def test_short_help(qat, arguments):
    done = qat(*arguments)
    assert done.returncode == 0
    assert "--quiet" in done.stdout
    assert done.stdout == qat(*arguments[:-1], "--help").stdout


@pytest.mark.parametrize("arguments", [["--version"], ["doctor", "--version"], ["run", "--version"]])
def test_version(qat, arguments):
    done = qat(*arguments)
    assert (done.returncode, done.stdout) == (0, f"qat {version('qat-toolkit')}\n")


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["recipes"], logging.WARNING), (["recipes", "-v"], logging.INFO), (["-v", "recipes"], logging.INFO),
        (["recipes", "-vv"], logging.DEBUG), (["recipes", "-q"], logging.ERROR), (["-q", "recipes"], logging.ERROR),
    ],
)  # fmt: skip
def test_more_and_less_of_the_log(qat, monkeypatch, arguments, level):
    levels = []
    monkeypatch.setattr("qat.planning.recipe.builtin_recipes", lambda: levels.append(logging.getLogger("qat").level) or {})
    assert qat(*arguments).returncode == 0
    assert levels == [level]


def test_quiet_training_prints_its_result_alone(qat, config, tmp_path):
    done = qat("train", config, "--output", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("the best weights: ")
    assert "epoch" not in done.stdout + done.stderr
    assert "done" not in done.stdout


def test_brackets_are_text_and_no_markup(qat, tmp_path, monkeypatch):
    """Of rich: `[torch]` in an extra, a tensor's name or a path is not a style."""

    def missing(package):
        raise PackageNotFoundError(package)

    with monkeypatch.context() as patch:
        patch.setattr("qat.system.packages.version", missing)
        out = qat("doctor").stdout
    for extra in ("torch", "keras", "onnx", "litert", "torch,onnx"):
        assert f"  pip install 'qat-toolkit[{extra}]'\n" in out
    import onnx
    from onnx import TensorProto, helper

    names = ["x[bold]", "layers[0]/y[red]"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in names]
    weight = onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "w[dim]")
    graph = helper.make_graph([helper.make_node("Add", [names[0], "w[dim]"], names[1:])], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "[green]m.onnx")
    out = qat("inspect", "[green]m.onnx").stdout
    assert all(name in out for name in (*names, "w[dim]"))


def test_a_run_without_a_runtime_is_refused_before_it_trains(qat, config, tmp_path):
    config.write_text(config.read_text() + "recipe: static_wi4_ai4\ntarget: simulated\n")
    done = qat("run", config, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "'simulated' has no runtime" in done.stderr
    assert "use qat train" in done.stderr


def test_run_export_compare_inspect(qat, config, tmp_path):
    done = qat("run", config, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    entries = {e["name"]: e for e in result["entries"]}
    assert entries["torch_qat"]["parity"]["exact"] == 1.0
    assert {e["kind"] for e in result["entries"]} == {"float", "ptq", "qat", "control"}
    assert not any("error" in e for e in result["entries"])
    checkpoint = tmp_path / "out" / "checkpoints" / "best.safetensors"
    artifact = tmp_path / "m.onnx"
    done = qat("export", config, checkpoint, artifact)
    assert done.returncode == 0, done.stderr
    assert "100.00 % of outputs equal" in done.stdout
    again = qat("export", config, checkpoint, artifact)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    turned = tmp_path / "turned.onnx"
    done = qat("export", config, checkpoint, turned, "--layout", "NHWC", "--outputs", "output_0")
    assert done.returncode == 0, done.stderr
    assert "100.00 % of outputs equal" in done.stdout
    assert "float32  batchx8x8x1  NHWC" in qat("inspect", turned).stdout
    done = qat("compare", config, artifact, turned)
    assert done.returncode == 0, done.stderr
    assert "No float artifact among these" in done.stdout
    done = qat("compare", config, artifact, tmp_path / "out" / "artifacts" / "torch_float.onnx")
    assert "No float artifact" not in done.stdout
    assert "Δ float" in done.stdout
    done = qat("export", config, checkpoint, tmp_path / "n.onnx", "--layout", "NHCW")
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    done = qat("inspect", artifact)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^run by ONNX Runtime +\d+ QLinearConv", done.stdout, re.MULTILINE)
    assert "float32  batchx1x8x8  NCHW" in done.stdout and re.search(r"^weights +11 int8", done.stdout, re.MULTILINE)


def test_plan_shows_every_operator(qat):
    out = qat("plan", CONFIGS / "digits_torch.yaml").stdout
    assert "depthwise_conv2d + relu6" in out
    assert "integer" in out


def test_recipes_and_doctor(qat):
    assert "static_wi8_ai8" in qat("recipes").stdout
    assert qat("doctor").returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: tiny", "nam: tiny"), "unknown key 'nam'"),
        (("latency_runs: 2", "recipe: static_wi8"), "unknown recipe 'static_wi8'"),
        (("latency_runs: 2", "target: tensort"), "did you mean 'tensorrt'"),
        (("d.npz", "nowhere.npz"), "data.path: no such file: "),
        (("path: d.npz", "path: ."), "is a folder without .npy files, not an .npz file"),
        (("d.npz", "broken.py"), "data.path: "),
        (("d.npz", "three.npz"), "three.npz has no array 'y_test': it needs x_train, y_train, x_test, y_test"),
        (("source: npz, path: d.npz", "source: folder, path: nowhere"), "data.path: no such folder: "),
        (("source: npz, path: d.npz", "source: factory, factory: 'broken:raises'"), "data.factory: the data factory"),
        (("mobilenet_tiny", "mobilenet_tny"), "no function 'mobilenet_tny'"),
        (("mobilenet_tiny'}", "mobilenet_tiny', kwargs: {channels: 3}}"), "does not take images of shape"),
        (("mobilenet_tiny'}", "mobilenet_tiny', kwargs: {classes: 4}}"), "label 8 is out of range"),
        (("mobilenet_tiny'}", "mobilenet_tiny', dynamic: [length]}"), "dynamic: no input has a length"),
        (("mobilenet_tiny'}", "mobilenet_tiny', weights: w.safetensors}"), "model.weights: no such checkpoint"),
        (
            ("qat.runs.zoo_torch:mobilenet_tiny", "broken:raises"),
            "model.factory 'broken:raises' with model.kwargs {}: KeyError: 'x'",
        ),
        (("qat.runs.zoo_torch:mobilenet_tiny", "unreadable:make"), "cannot import unreadable: SyntaxError"),
        (("d.npz", "one.npz"), "data.path: data set 'one': one training image"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(qat, config, tmp_path, change, message):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "unreadable.py").write_text("def make(:")
    one = np.zeros((1, 8, 8), np.uint8), np.zeros(1, int)
    np.savez(tmp_path / "one.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), one * 2, strict=True)))
    np.savez(tmp_path / "three.npz", x_train=one[0], y_train=one[1], x_test=one[0])
    config.write_text(config.read_text().replace(*change))
    done = qat("run", config, "--output", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: tiny", "nam: tiny"), "unknown key 'nam'"),
        # Within pytest torch.export prints the graph before the error.
        pytest.param(
            ("qat.runs.zoo_torch:mobilenet_tiny", "broken:Branches"), "torch.export cannot capture Branches", marks=SLOW_BUT_IN_CI
        ),
    ],
)
def test_a_mistake_ends_the_process_with_2(config, tmp_path, change, message):
    (tmp_path / "broken.py").write_text(BROKEN)
    config.write_text(config.read_text().replace(*change))
    done = process("run", config, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_of_the_other_framework(qat, config, tmp_path):
    config.write_text(config.read_text().replace("qat.runs.zoo_torch:mobilenet_tiny", "qat.runs.zoo_keras:mobilenet_tiny"))
    done = qat("plan", config)
    assert done.returncode == 2
    assert "error: the configuration's framework is torch, its model is one of keras" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = process("--debug", "run", tmp_path / "none.yaml")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_output_that_cannot_be_a_folder(qat, config, tmp_path):
    (tmp_path / "file").write_text("")
    done = qat("ptq", config, "--output", tmp_path / "file")
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr


def test_inspect_of_what_is_no_artifact(qat, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    for path, message in ((tmp_path / "none.onnx", "no such artifact"), (tmp_path / "m.onnx", "cannot load")):
        done = qat("inspect", path)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.mark.slow
@pytest.mark.ci
def test_interrupted_run_leaves_nothing_half_written(config, tmp_path):
    text = config.read_text().replace("epochs: 1, learning_rate: 0.05", "epochs: 500, learning_rate: 0.05")
    config.write_text(text)
    command = [sys.executable, "-m", "qat", "run", str(config), "--output", str(tmp_path / "out")]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while running.poll() is None and "data" not in (line := running.stdout.readline()):
        assert line
    time.sleep(2)
    os.kill(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "interrupted" in errors
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(
            "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n    except BaseException: pass", marks=SLOW_BUT_IN_CI
        ),
        pytest.param(
            "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n    except BaseException: raise ImportError('half done')",
            marks=pytest.mark.slow,
        ),
        pytest.param("exec('os.kill(os.getpid(), signal.SIGINT); time.sleep(5)')", marks=pytest.mark.slow),
    ],
    ids=["swallowed", "another error", "within exec"],
)
def test_ctrl_c_within_a_library_is_not_lost(config, tmp_path, meanwhile):
    """Libraries catch everything while they import, and C++ passes no KeyboardInterrupt on."""
    (tmp_path / "slow.py").write_text(
        f"import os, signal, time\nimport numpy as np\n\ndef data():\n    {meanwhile}\n    return dict(np.load('d.npz'))\n"
    )
    config.write_text(config.read_text().replace("source: npz, path: d.npz", "source: factory, factory: 'slow:data'"))
    done = process("run", config, "--output", tmp_path / "out", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 130, done.stderr
    assert "interrupted: no file is half written; the same command with --resume goes on" in done.stderr


def test_cached_float_model_follows_the_data(qat, config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def kept():
        """Train, which is told; return whether the float model is that of an earlier run, and how many models are kept."""
        done = qat("train", config, "--output", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert re.search(r"^  epoch 1/1: loss [\d.]+; top1 [\d.]+ %$", done.stdout, re.MULTILINE)
        for name in ("float", "calibrated", "trained, epoch 1 of 1"):
            assert re.search(rf"^  {name}: top1 [\d.]+ % on the validation data$", done.stdout, re.MULTILINE), name
        assert f"the best weights: {tmp_path / 'out' / 'checkpoints' / 'best.safetensors'}" in done.stdout
        return "float model from " in done.stdout, len(list((tmp_path / "cache").rglob("*.safetensors")))

    assert kept() == (False, 1)
    assert kept() == (True, 1)
    arrays = dict(np.load(tmp_path / "d.npz"))
    arrays["y_train"] = arrays["y_train"][::-1]
    np.savez(tmp_path / "d.npz", **arrays)
    assert kept() == (False, 2)


@pytest.mark.slow
@pytest.mark.parametrize("framework", [pytest.param("torch", marks=pytest.mark.ci), "keras"])
def test_interrupted_training_goes_on_with_resume(qat, config, tmp_path, framework):
    """Ctrl-C: one sentence that says how to go on, and the same weights in the end as without it."""
    text = config.read_text().replace("torch", framework) + "training: {epochs: 15, checkpoint_every: 1, learning_rate: 0.01}\n"
    config.write_text(text)
    command = [sys.executable, "-m", "qat", "train", str(config), "--output", str(tmp_path / "cut")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    checkpoint = tmp_path / "cut" / "checkpoints" / "training.safetensors"
    while running.poll() is None and not checkpoint.is_file():
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "interrupted: stopped after step" in errors
    assert "training.safetensors continues it, with --resume" in errors
    assert qat("train", config, "--output", tmp_path / "cut", "--resume").returncode == 0
    assert qat("train", config, "--output", tmp_path / "whole").returncode == 0
    if framework == "torch":
        files = [(tmp_path / run / "checkpoints" / "best.safetensors").read_bytes() for run in ("cut", "whole")]
        assert files[0] == files[1]
    else:
        import keras

        models = [keras.models.load_model(tmp_path / run / "checkpoints" / "best.keras") for run in ("cut", "whole")]
        for a, b in zip(*(m.get_weights() for m in models), strict=True):
            np.testing.assert_array_equal(a, b)

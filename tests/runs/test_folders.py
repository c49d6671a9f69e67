"""Where a run finds the user's files, where its results go, and what it leaves as it was."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from qat.errors import ConfigError
from qat.runs import run
from qat.runs.config import RunConfig, load_run
from qat.runs.job import Job, results_folder
from support.command_line import CommandLine

NETS = """
import torch


def make():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


def hits(outputs, labels):
    return outputs.argmax(-1) == labels
"""


@pytest.fixture
def project(tmp_path):
    """A configuration with its data and its modules, in a folder of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (120, 8, 8), np.uint8), np.arange(120) % 3
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    (folder / "project_nets.py").write_text(NETS)
    (folder / "run.yaml").write_text(
        "name: mine\nframework: torch\nmodel: {factory: 'project_nets:make'}\n"
        "data: {source: npz, path: d.npz, batch_size: 16}\nfloat_training: {epochs: 1, learning_rate: 0.05}\n"
        "training: {metrics: ['project_nets:hits'], tensorboard: logs}\n"
    )
    return folder


def test_a_run_works_from_any_folder_and_leaves_nothing_in_it(project, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    qat = CommandLine(tmp_path / "elsewhere", capsys)
    qat.folder.mkdir()
    done = qat("train", project / "run.yaml")
    assert done.returncode == 0, done.stderr
    assert (project / "runs" / "mine" / "checkpoints" / "best.safetensors").is_file()
    assert list((project / "logs").iterdir()) and list(qat.folder.iterdir()) == []
    done = qat("ptq", project / "run.yaml", "--output", "here")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in qat.folder.iterdir()] == ["here"]


def config(**settings):
    return RunConfig.model_validate({"name": "r", "framework": "torch", "model": {"factory": "a:b"}} | settings)


def test_results_lie_beside_the_configuration_unless_it_ships_with_the_toolkit():
    import qat.configs

    shipped = Path(qat.configs.__file__).parent / "runs"
    assert results_folder(config(), Path("/p")) == Path("/p/runs/r")
    assert results_folder(config(output="out"), Path("/p")) == Path("/p/out")
    assert results_folder(config(), shipped) == Path("runs/r")


@pytest.mark.parametrize("name", ["../there", "a/b", "..", "", "a\\b"])
def test_a_name_cannot_leave_the_folder_of_runs(tmp_path, name):
    path = tmp_path / "run.yaml"
    path.write_text(f"framework: torch\nmodel: {{factory: 'a:b'}}\nname: '{name}'\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:3: name: the name is that of a folder in runs/"):
        load_run(path)


def test_a_second_run_in_a_folder_is_refused_with_the_first_ones_number(tmp_path):
    hold = "import sys; from pathlib import Path; from qat.system.run_lock import only_run_in\n"
    hold += "with only_run_in(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    first = subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    job = Job.of(config(), tmp_path, tmp_path, Console(quiet=True))
    try:
        with pytest.raises(ConfigError, match=rf"another run writes into {tmp_path} \(process {first.pid}\)"), job.alone():
            pass
    finally:
        first.kill()
        first.wait()
    with job.alone():
        assert (tmp_path / ".run.pid").read_text() == str(os.getpid())


def test_a_forgotten_resume_keeps_the_earlier_weights(tmp_path, capsys):
    def job(resume=False):
        return Job.of(config(), tmp_path, tmp_path, Console(), resume)

    for number in (1, 2):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "best.safetensors").write_text(f"weights {number}")
        job(resume=True).keep_earlier_run()
        assert (tmp_path / "checkpoints" / "best.safetensors").is_file()
        job().keep_earlier_run()
        assert (tmp_path / f"checkpoints.{number}" / "best.safetensors").read_text() == f"weights {number}"
        assert "--resume would have continued it" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists()


def test_an_unwritable_cache_warns_and_the_run_goes_on(project, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    loaded = load_run(project / "run.yaml")
    trained = run.train(Job.of(loaded, project, tmp_path / "out", Console(quiet=True)))
    assert trained.best.is_file()
    assert "the float model is not kept, and the next run trains it again: cannot write" in caplog.text

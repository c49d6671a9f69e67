"""What `qat doctor` says: what is missing, too old or broken, and the command that mends it."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from qat.system import c_library, installation, machine, packages
from qat.system.installation import look
from qat.system.packages import EXTRAS, Package
from support.command_line import CommandLine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def qat(tmp_path, capfd):
    return CommandLine(tmp_path, capfd)


@pytest.fixture
def versions(monkeypatch):
    """The installed versions, which a test changes; None: not installed."""
    changed = {}
    real = packages.version

    def version(name):
        if changed.get(name, "") is None:
            raise PackageNotFoundError(name)
        return changed.get(name) or real(name)

    monkeypatch.setattr(packages, "version", version)
    return changed


def test_every_extra_says_what_it_is_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) - {""} == set(extras) - {"all", "docs", "dev"}


def test_packages_are_listed_under_the_extra_that_brings_them():
    found = {(package.name, package.extra) for package in packages.packages()}
    assert {("numpy", ""), ("torch", "torch"), ("tf_keras", "keras"), ("onnxruntime", "onnx"), ("pillow", "report")} <= found
    assert not {name for name, _ in found} & {"pytest", "mkdocs", "qat-toolkit"}


def test_a_whole_installation_has_no_problem(qat):
    pytest.importorskip("torch")
    done = qat("doctor")
    assert done.returncode == 0
    assert "processor" in done.stdout and "torch" in done.stdout


def test_the_compiled_passes_are_said(qat, monkeypatch, tmp_path):
    (tmp_path / "made").mkdir()
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho maker 1.2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "made"))
    monkeypatch.setenv("CC", f"{compiler} -m64")
    monkeypatch.delenv("QAT_COMPILED", raising=False)
    assert str(look().passes) == f"compiled at first use by {compiler} (maker 1.2)"
    library = c_library._path(installation._PASSES)
    library.parent.mkdir(parents=True)
    library.write_text("")
    assert str(look().passes) == f"in use, compiled by {compiler} (maker 1.2)"
    library.unlink()
    monkeypatch.setenv("CC", "no-such-compiler")
    done = qat("doctor")
    assert done.returncode == 0
    assert "not used: no C compiler" in done.stdout and "export CC=COMPILER" in done.stdout
    monkeypatch.setenv("QAT_COMPILED", "0")
    done = qat("doctor")
    assert "not used: QAT_COMPILED=0 forbids them" in done.stdout and "export CC" not in done.stdout
    assert json.loads(qat("doctor", "--json").stdout)["passes"]["used"] is False


def test_a_missing_extra_is_no_error_but_names_its_command(qat, versions):
    versions["tf2onnx"] = None
    done = qat("doctor")
    assert done.returncode == 0
    assert "not installed: tf2onnx (in an .onnx, what stays float of a Keras model)\n" in done.stdout
    assert "  pip install 'qat-toolkit[keras-onnx]'\n" in done.stdout


def test_no_framework_and_no_runtime_are_errors(qat, versions):
    versions |= dict.fromkeys(("torch", "keras", "onnxruntime", "ai-edge-litert"))
    done = qat("doctor")
    assert done.returncode == 1
    assert "there is neither PyTorch nor Keras" in done.stdout and "'qat-toolkit[torch,onnx]'" in done.stdout
    assert "there is no runtime" in done.stdout and "'qat-toolkit[onnx,litert]'" in done.stdout


def test_a_version_that_the_toolkit_was_not_made_for_is_an_error(qat, versions):
    versions["onnx"] = "1.10.0"
    done = qat("doctor")
    assert done.returncode == 1
    assert "onnx 1.10.0 is none of the versions <1.24,>=1.19" in done.stdout
    assert "  pip install 'qat-toolkit[onnx]'\n" in done.stdout


def test_a_package_that_cannot_be_imported_is_found(monkeypatch):
    monkeypatch.setattr(installation, "packages", lambda: [Package("nowhere_to_be_found", "", ">=1", "1.0")])
    (first, *_) = look(imports=True).problems
    assert first.what == (
        "nowhere_to_be_found 1.0 cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    )
    assert first.remedy == "pip install --force-reinstall nowhere_to_be_found"
    assert first.serious


def test_a_crash_on_import_is_told(tmp_path, monkeypatch):
    (tmp_path / "crashes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert packages.import_error("crashes").startswith("the import was killed by signal 4")
    assert packages.import_error("json") == ""


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (problem,) = [p for p in look().problems if "cache" in p.what]
    assert "XDG_CACHE_HOME" in problem.remedy


@pytest.mark.parametrize("by_variable", [True, False])
def test_another_backend_of_keras_is_told(by_variable, tmp_path, monkeypatch):
    pytest.importorskip("keras")
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if by_variable:
        monkeypatch.setenv("KERAS_BACKEND", "jax")
    (problem,) = [p for p in look().problems if "backend" in p.what]
    assert f"Keras runs on '{'jax' if by_variable else 'torch'}'" in problem.what
    assert problem.remedy == "export KERAS_BACKEND=tensorflow"


def test_a_full_disk_little_memory_and_another_encoding_are_told(monkeypatch):
    free = machine.Folder(Path.cwd(), True, 10_000_000)
    monkeypatch.setattr(machine, "folder", lambda path: replace(free, path=path))
    monkeypatch.setattr(machine, "memory", lambda: 1 << 30)
    monkeypatch.setattr(machine, "terminal", lambda: machine.Terminal(80, "ASCII", "C"))
    said = " ".join(problem.what for problem in look().problems)
    assert "0.0 GB of disk are left" in said
    assert "1.1 GB of memory" in said
    assert "standard output is ASCII" in said


def test_a_processor_without_vnni_is_told_of_the_target(monkeypatch):
    has = {"AVX2": True, "AVX512": False, "VNNI": False, "AMX": False, "bf16": False}
    monkeypatch.setattr(machine, "processor", lambda: machine.Processor("Old", "x86", has))
    found = look()
    (problem,) = [p for p in found.problems if "VNNI" in p.what]
    assert "onnxruntime_vnni would be wrong here" in problem.what
    assert found.facts()["processor"] == "Old: AVX2, no AVX512, no VNNI, no AMX, no bf16"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
@pytest.mark.parametrize(
    ("architecture", "text", "kind", "has"),
    [
        (
            "x86_64",
            "model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512f avx512_vnni\n",
            "x86",
            {"AVX2", "AVX512", "VNNI"},
        ),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", "arm", {"dotprod", "i8mm"}),
        ("riscv64", "processor\t: 0\n", "", set()),
    ],
)
def test_the_processors_features_are_read(architecture, text, kind, has, monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    monkeypatch.setattr(machine.Path, "read_text", lambda self: text)
    found = machine.processor()
    assert found.kind == kind
    assert {feature for feature, there in found.features.items() if there} == has


def test_json_holds_everything(qat):
    found = json.loads(qat("doctor", "--json").stdout)
    assert {"qat", "python", "packages", "processor", "threads", "memory", "accelerator", "cache", "working", "terminal"} <= set(
        found
    )
    assert {"name", "version", "extra", "needs", "fits"} <= set(found["packages"][0])


@pytest.mark.parametrize(("wanted", "threads"), [("", 4), ("2", 2), ("16", 4), ("3,1", 3), ("0", 4), ("many", 4)])
def test_runtimes_take_the_threads_that_the_user_allows(wanted, threads, monkeypatch):
    monkeypatch.setattr(machine, "threads", lambda: (4, 8))
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert machine.usable_threads() == threads

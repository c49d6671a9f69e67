"""The wheel: every package and every file that the code reads is in it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
#: The folders of the repository whose modules a wheel has below another name.
SOURCES = SETUPTOOLS["package-dir"]


def packages_of_the_tree():
    for name, source in SOURCES.items():
        top = ROOT / source
        for folder in {path.parent for path in top.rglob("*.py")}:
            yield ".".join((name, *folder.relative_to(top).parts))


def test_every_package_of_the_tree_is_in_the_wheel():
    assert sorted(packages_of_the_tree()) == sorted(SETUPTOOLS["packages"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The files that a wheel installs, in a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*SOURCES.values(), "pyproject.toml", "README.md", "LICENSE"):  # setuptools writes into the folder that it builds
        (source / name).symlink_to(ROOT / name)
    command = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=source, capture_output=True, text=True, check=True)
    site = folder / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", folder / done.stdout.splitlines()[-1], site], check=True)
    return site


def test_every_file_of_the_tree_is_in_the_wheel(installed):
    expected = {
        Path(*name.split("."), path.relative_to(ROOT / source))
        for name, source in SOURCES.items()
        for path in (ROOT / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {path.relative_to(installed) for path in (installed / "qat").rglob("*") if path.is_file()}
    assert found == expected


def command(installed, folder, *arguments):
    """Run ``qat ARGUMENTS`` of the wheel in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "qat", *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_lists_its_configurations_and_recipes(installed, tmp_path):
    listed = command(installed, tmp_path, "configs")
    assert f"their files: {installed}" in listed
    assert {p.stem for p in (ROOT / "configs" / "runs").glob("*.yaml")} <= set(re.findall(r"^\w+", listed, re.MULTILINE))
    assert "static_wi8_ai8 " in command(installed, tmp_path, "recipes")


@pytest.mark.slow
def test_a_shipped_configuration_runs_from_the_wheel_in_an_empty_folder(installed, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    assert "written: runs/digits_torch" in command(installed, tmp_path, "run", "digits_torch")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert (tmp_path / "runs" / "digits_torch" / "artifacts" / "torch_qat.onnx").is_file()

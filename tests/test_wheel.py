"""The wheel: every package and every file that the code reads is in it."""

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

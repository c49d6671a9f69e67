"""The public face: every example in a docstring runs, and the types tell a user's mistakes from what is right."""

import doctest
import re
from pathlib import Path

import pytest
from mypy import api as mypy

import qat

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(__file__).parent / "typing"
CALLS = [name for name in qat.__all__ if name[0].islower()]
EXAMPLES = [*CALLS, *(name for name in qat.__all__ if ">>>" in (getattr(qat, name).__doc__ or "") and name not in CALLS)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_a_docstring_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(qat, name), name, globs={})
    assert test.examples, f"qat.{name} has no example"
    report: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append).failed
    assert not failed, "".join(report)


def test_public_names_are_documented():
    for name in set(qat.__all__) - {"__version__"}:
        assert len(getattr(qat, name).__doc__ or "") > 60, name


@pytest.mark.slow
def test_strict_mypy_takes_a_users_script_and_finds_mistakes(tmp_path, monkeypatch):
    """Against the package as a wheel installs it: trainers/, exporters/ and configs/ lie below qat."""
    package = tmp_path / "qat"
    package.mkdir()
    for path in (*(ROOT / "qat").iterdir(), *(ROOT / name for name in ("trainers", "exporters", "configs"))):
        (package / path.name).symlink_to(path)
    monkeypatch.setenv("MYPYPATH", str(tmp_path))
    right, wrong = SCRIPTS / "user_script.py", SCRIPTS / "wrong_script.py"
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={ROOT / 'build' / 'mypy_users'}"]
    out, errors, _ = mypy.run([*options, str(right), str(wrong)])
    assert not errors
    found = {(Path(m[1]).name, int(m[2])) for m in re.finditer(r"^(.+?):(\d+): error:", out, re.MULTILINE)}
    lines = enumerate(wrong.read_text().splitlines(), 1)
    assert found == {(wrong.name, number) for number, line in lines if line.endswith("# wrong")}, out

"""C functions compiled at first use: never required, kept in the user's cache, made once."""

import ctypes
import shutil
from pathlib import Path

import pytest

from qat.system import c_library

SOURCE = "#include <stdint.h>\nint32_t doubled(int32_t x) { return 2 * x; }\n"
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    path = tmp_path / "functions.c"
    path.write_text(SOURCE)
    return path


def libraries(source):
    return sorted((source.parent / "cache").rglob("*.so"))


@needs_compiler
def test_functions_are_compiled_once(source, monkeypatch):
    assert c_library.load(source).doubled(21) == 42
    (library,) = libraries(source)
    assert not [p for p in library.parent.iterdir() if p != library]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert c_library.load(source).doubled(4) == 8
    source.write_text(SOURCE.replace("2 * x", "3 * x"))  # another source is another library
    assert c_library.load(source) is None
    monkeypatch.delenv("CC")
    assert c_library.load(source).doubled(4) == 12
    assert len(libraries(source)) == 2


@needs_compiler
def test_a_switch_forbids_it(source, monkeypatch):
    monkeypatch.setenv(c_library.SWITCH, "0")
    assert c_library.load(source) is None
    assert not libraries(source)


def test_without_a_compiler_there_is_no_library(source, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert c_library.load(source) is None
    assert not libraries(source)


@needs_compiler
@pytest.mark.parametrize("text", ["int broken(", "int missing(int); int calls(int x) { return missing(x); }"])
def test_what_does_not_compile_or_link_is_no_library(source, text):
    source.write_text(text)
    assert c_library.load(source) is None


@needs_compiler
def test_a_library_of_another_user_is_not_loaded(source, monkeypatch):
    assert isinstance(c_library.load(source), ctypes.CDLL)
    monkeypatch.setattr(c_library.os, "getuid", lambda: Path(source).stat().st_uid + 1)
    assert c_library.load(source) is None


@needs_compiler
def test_a_folder_that_cannot_be_made_is_no_error(source, monkeypatch):
    (source.parent / "cache").write_text("a file, not a folder")
    assert c_library.load(source) is None

"""The command line in terminals and locales of all kinds: no traceback, no garbage."""

import os
import pty
import subprocess
import sys
import termios

import pytest

QAT = [sys.executable, "-m", "qat"]


def environment(**changed):
    left_out = ("LANG", "LC_ALL", "LC_CTYPE", "COLUMNS", "NO_COLOR", "PYTHONIOENCODING", "PYTHONUTF8")
    return {name: value for name, value in os.environ.items() if name not in left_out} | changed


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "POSIX"},
        {"LANG": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=["LANG=C", "ascii", "posix", "latin-1"],
)  # fmt: skip
def test_a_locale_without_utf8_gets_ascii(locale):
    done = subprocess.run([*QAT, "configs"], capture_output=True, env=environment(**locale), check=True)
    assert done.stdout.isascii() and done.stdout.startswith(b"configuration")
    assert b"\n------" in done.stdout
    assert b"?" not in done.stdout


def test_a_name_that_the_stream_cannot_show_is_escaped():
    locale = environment(LANG="C.UTF-8", PYTHONIOENCODING="ascii")
    done = subprocess.run([*QAT, "inspect", "/nowhere/Köter.onnx"], capture_output=True, text=True, env=locale, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: no such artifact: /nowhere/K\\xf6ter.onnx\n"


@pytest.mark.parametrize(
    ("kind", "colours"),
    [({"TERM": "xterm-256color"}, True), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["colours", "NO_COLOR", "dumb"],
)
def test_colours_are_for_terminals_that_want_them(kind, colours):
    code = (
        "from qat.display.page import Page\nfrom qat.display.table import Column, Table\n"
        "from qat.display.terminal import console_of, show\n"
        "columns, rows = (Column('name'), Column('figure', right=True)), (('[b]a:x:', '100.00'),)\n"
        "show(Page((Table(columns, rows, styles=('good',)),)), console_of())"
    )
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    done = subprocess.run([sys.executable, "-c", code], stdout=slave, env=environment(LANG="C.UTF-8", **kind), check=True)
    text = os.read(master, 65536).decode()
    os.close(slave)
    os.close(master)
    assert done.returncode == 0
    assert ("\x1b[1;32m" in text) is colours
    assert ("\x1b" not in text) or kind["TERM"] != "dumb"
    assert "[b]a:x:  100.00" in text  # neither markup nor emoji codes


def test_a_pipe_that_is_closed_early_is_no_error():
    command = f"{' '.join(QAT)} recipes | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, env=environment(LANG="C.UTF-8"))
    assert done.stdout.startswith("recipe")
    assert done.stderr == ""


def test_a_command_is_not_broken_by_the_width():
    from qat.display.page import Page, Whole

    command = "qat export /a/folder/with spaces/run.yaml " + "very/long/" * 20 + "best.safetensors ARTIFACT"
    assert Page((Whole(command),)).text(80) == command

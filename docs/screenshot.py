"""Take README's picture of the terminal: a real run, on a terminal of 80 columns, as an SVG. `make screenshot` calls it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
import termios
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = "qat run digits_torch"
COLUMNS, ROWS = 80, 60


def main(target: Path) -> None:
    """Run the command in an empty folder, and write what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        printed = run_on_a_terminal(COMMAND.split(), Path(folder))
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text(f"$ {COMMAND}", "bold"))
    console.print(Text.from_ansi(printed.rstrip()))
    target.write_text(console.export_svg(title="qat", unique_id="qat"))


def run_on_a_terminal(command: list[str], folder: Path) -> str:
    """Return what a command prints to its standard output, which is a terminal."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (ROWS, COLUMNS))
    environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    environment.pop("COLUMNS", None)
    arguments = [sys.executable, "-m", *command]
    process = subprocess.Popen(arguments, cwd=folder, stdout=slave, stderr=subprocess.PIPE, env=environment)
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 65536):
            parts.append(part)
    except OSError:  # how a terminal ends on Linux
        os.close(master)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors.decode())
    return b"".join(parts).decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Starts a module of this folder as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start ``python -m support.MODULE ARGUMENTS`` on one thread, with ``environment`` added to this process's own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"support.{module}", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def output_of(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process; return what it printed, and fail with its errors if it failed."""
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return output

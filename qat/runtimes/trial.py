"""A file tried in its runtime, in a process of its own, which may end as it likes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.errors import DataError

from .session import Session

#: How long a runtime may take, in seconds.
_PATIENCE = 600


@dataclass(frozen=True)
class Run:
    """The inputs that a file's runtime took, and what it made of them."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


class Crashed(DataError):
    """A runtime ended its process; ``words`` are the last that it said."""

    def __init__(self, path: Path, words: str) -> None:
        super().__init__(f"{path} does not run in its own runtime: the process ended ({words})")
        self.words = words


def zeros_of(session: Session) -> list[np.ndarray]:
    """Return inputs of zeros for a file, two where a size is free."""
    return [np.zeros([2 if size is None else size for size in info.shape], np.float32) for info in session.inputs]


def run_in_runtime(path: Path, candidates: Sequence[Sequence[np.ndarray]], kernels: str = "") -> Run:
    """Run a file on the first of several inputs that its runtime takes, in a process of its own.

    Args:
        path: of the file.
        candidates: inputs, in the order to try them; without any the file runs on zeros.
        kernels: as :class:`qat.runtimes.formats.OpenModel` takes them.

    Raises:
        Crashed: the runtime ended the process.
        DataError: the runtime takes none of them; the message holds its reason.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, arrays in enumerate(candidates):
            np.savez(folder / f"{number}.npz", *arrays)
        command = [sys.executable, "-m", "qat.runtimes.child", str(path.resolve()), name, kernels]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise DataError(
                f"{path} runs for more than {_PATIENCE} seconds in its own runtime: it is damaged, or too large"
            ) from error
        if (folder / "outputs.npz").is_file():
            with np.load(folder / "outputs.npz") as archive:
                outputs = [archive[f"arr_{i}"] for i in range(len(archive.files) - 1)]
                number = int(archive["number"])
                return Run(tuple(candidates[number]) if candidates else (), tuple(outputs))
        if not (folder / "error.txt").is_file():
            raise Crashed(path, _last_words(child))
        raise DataError(f"{path} does not run in its own runtime: {(folder / 'error.txt').read_text(encoding='utf-8')}")


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a process said, or else by what it was ended."""
    said = [line for line in child.stderr.splitlines() if line.strip() and not line.startswith("INFO:")]
    if said:
        return said[-1][:200]
    return f"signal {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"code {child.returncode}"

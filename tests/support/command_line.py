"""The command line within the test's own process, so that no test waits for an import of the frameworks."""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qat.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class CommandLine:
    """Runs ``qat ARGUMENTS`` in a folder; what a command changes of the process is put back after it."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capture = capture

    def __call__(self, *arguments: object) -> Done:
        """Run a command, and return how it ended. An exception that the command line does not expect is raised."""
        logger, modules, code = logging.getLogger("qat"), set(sys.modules), 0
        level, handler = logger.level, signal.getsignal(signal.SIGINT)
        self.capture.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["qat", *map(str, arguments)])
            patch.setattr(sys, "path", sys.path.copy())
            patch.chdir(self.folder)
            try:
                main()
            except SystemExit as done:
                code = done.code if isinstance(done.code, int) else int(done.code is not None)
            finally:
                logger.setLevel(level)
                signal.signal(signal.SIGINT, handler)
                for name in set(sys.modules) - modules:  # the user's, which another test has too, with other contents
                    if Path(getattr(sys.modules[name], "__file__", None) or os.devnull).parent == self.folder:
                        del sys.modules[name]
        return Done(code, *self.capture.readouterr())


def tiny_run(folder: Path, framework: str = "torch") -> Path:
    """Write the configuration of a tiny run on digits in an .npz file, and return its path."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (96, 8, 8), np.uint8), np.arange(96) % 9
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x[:32], y_test=y[:32])
    path = folder / "run.yaml"
    path.write_text(
        f"name: tiny\nframework: {framework}\nmodel: {{factory: 'qat.runs.zoo_{framework}:mobilenet_tiny'}}\n"
        "data: {source: npz, path: d.npz, batch_size: 16}\nfloat_training: {epochs: 1, learning_rate: 0.05}\nlatency_runs: 2\n"
    )
    return path

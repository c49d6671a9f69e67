"""Measures two files in a process of its own: ``python -m qat.analysis.diagnosis.child FOLDER``.

A runtime can crash on a damaged file, take all memory, or never end; the process that asked goes on. FOLDER holds ``job.pickle``;
the facts are written to ``facts.pickle``, or what is wrong with the files to ``error.txt``.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

from qat.errors import DataError, QatError

from .measure import Job, measure
from .measured import Facts

#: How long the runtimes may take, in seconds.
_PATIENCE = 3600


def measured_in_child(job: Job) -> Facts:
    """Measure two files in a process of its own.

    Raises:
        DataError: a file is damaged, the files are not of one model, the data do not fit, or a runtime gives up.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.pickle").write_bytes(pickle.dumps(job))
        command = [sys.executable, "-m", "qat.analysis.diagnosis.child", name]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        files = f"{job.float_path} and {job.quantized_path}"
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{files} run for more than {_PATIENCE} seconds: give fewer samples") from error
        if (folder / "facts.pickle").is_file():
            facts: Facts = pickle.loads((folder / "facts.pickle").read_bytes())
            return facts
        if (folder / "error.txt").is_file():
            raise DataError((folder / "error.txt").read_text(encoding="utf-8"))
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(
            f"the process that runs {files} ended with code {done.returncode}"
            f"{': ' + said[-1][:200] if said else ''}: a file is damaged, or its runtime cannot run it"
        )


def main(folder: Path) -> None:
    """Measure the job of a folder."""
    try:
        facts = measure(pickle.loads((folder / "job.pickle").read_bytes()))
    except QatError as error:
        (folder / "error.txt").write_text(str(error), encoding="utf-8")
    else:
        (folder / "facts.pickle").write_bytes(pickle.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

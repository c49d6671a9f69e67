"""Runs a file in its runtime, as a process of its own: ``python -m qat.sources.runtime_child FILE FOLDER``.

A runtime can crash on a damaged file, take all memory, or never end; the process that reads the file goes on.
FOLDER holds ``0.npz``, ``1.npz``, ...: inputs to try in this order. The outputs of the first that the runtime takes are written
to ``outputs.npz``, with its number as ``number``; where it takes none, its last complaint to ``error.txt``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from qat.errors import QatError
from qat.runtimes import open_session


def main(path: Path, folder: Path) -> None:
    """Run a file on the inputs in a folder."""
    _limit_memory()
    try:
        session = open_session(path)
    except QatError as error:
        (folder / "error.txt").write_text(str(error))
        return
    for number in range(len(list(folder.glob("*.npz")))):
        with np.load(folder / f"{number}.npz") as archive:
            arrays = [archive[f"arr_{i}"] for i in range(len(archive.files))]
        try:
            outputs = session.invoke(*session.in_file_types(*arrays))
        except QatError as error:
            (folder / "error.txt").write_text(str(error))
            continue
        np.savez(folder / "outputs.npz", *outputs, number=number)
        return


def _limit_memory() -> None:
    """Let the process have as much memory as the machine has: a file that asks for more fails, and nothing else does."""
    if sys.platform == "linux":
        import os
        import resource

        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (whole, whole))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

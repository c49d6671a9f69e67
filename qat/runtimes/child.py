"""Runs a file in its runtime, as a process of its own: ``python -m qat.runtimes.child FILE FOLDER KERNELS``.

A runtime can crash on a damaged file, take all memory, or never end; the process that asked goes on.
FOLDER holds ``0.npz``, ``1.npz``, ...: inputs to try in this order; without any the file runs on zeros. The outputs of the first
that the runtime takes are written to ``outputs.npz``, with its number as ``number``; where it takes none, its last complaint to
``error.txt``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from qat.errors import QatError
from qat.runtimes import format_of
from qat.runtimes.trial import zeros_of


def main(path: Path, folder: Path, kernels: str) -> None:
    """Run a file on the inputs in a folder."""
    _limit_memory()
    try:
        session = format_of(path).open(path, kernels=kernels)
    except QatError as error:
        (folder / "error.txt").write_text(str(error), encoding="utf-8")
        return
    for number, arrays in enumerate(_read(folder) or [zeros_of(session)]):
        try:
            outputs = session.invoke(*session.in_file_types(*arrays))
        except QatError as error:
            (folder / "error.txt").write_text(str(error), encoding="utf-8")
            continue
        np.savez(folder / "outputs.npz", *outputs, number=number)
        return


def _read(folder: Path) -> list[list[np.ndarray]]:
    inputs = []
    for number in range(len(list(folder.glob("*.npz")))):
        with np.load(folder / f"{number}.npz") as archive:
            inputs.append([archive[f"arr_{i}"] for i in range(len(archive.files))])
    return inputs


def _limit_memory() -> None:
    """Let the process have as much memory as the machine has, and as its user may: a file that asks for more fails alone."""
    if sys.platform == "linux":
        import os
        import resource

        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limits = [n for n in (whole, *resource.getrlimit(resource.RLIMIT_AS)) if n != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), min(limits)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

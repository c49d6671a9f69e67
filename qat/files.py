"""Writing files so that nothing is ever half written or lost."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from qat.errors import ExportError


def write_atomically(path: str | Path, data: bytes | str, overwrite: bool = False) -> Path:
    """Write a file through a temporary one in the same folder, which is synced and renamed.

    Raises:
        ExportError: the file exists and ``overwrite`` is False, or the folder cannot be created or written, or the disk is
            full. An existing file is untouched then, and no temporary one is left.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists already: pass overwrite=True (--overwrite) or another path")
    raw = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; an artifact is as readable as any other file of the user's.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}; the disk or the folder's permissions") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            if temporary:
                os.unlink(temporary)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Writing files so that nothing is ever half written or lost."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from qat.errors import ExportError


def write_atomically(path: str | Path, data: bytes | str, overwrite: bool = False) -> Path:
    """Write a file as :func:`write_together` does, and return its path."""
    write_together({Path(path): data}, overwrite)
    return Path(path)


def write_together(files: Mapping[Path, bytes | str], overwrite: bool = False) -> None:
    """Write files, all or none, each through a temporary one in the same folder, which is synced and renamed.

    Folders that do not exist are made. Where this fails, existing files are untouched and no temporary one is left.

    Raises:
        ExportError: a file exists and ``overwrite`` is False, or one cannot be written.
    """
    if not overwrite:
        refuse_existing(*files)
    temporaries: dict[Path, str] = {}
    path = Path()
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporaries[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; an artifact is as readable as any other file of the user's.
            os.chmod(temporaries[path], 0o666 & ~_umask())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        raise ExportError(
            f"cannot write {path} ({error.strerror or error}): check the folder's permissions and the disk's free space"
        ) from error
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, and see that a file can be written there.

    Raises:
        ExportError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ExportError(f"cannot write into {path} ({error.strerror or error}): choose another folder") from error


def refuse_existing(*paths: Path) -> None:
    """Raise ExportError for the first path that exists."""
    for path in paths:
        try:
            exists = path.exists()
        except OSError as error:  # a name that is too long, say
            raise ExportError(f"cannot write {path} ({error.strerror or error}): choose another path") from error
        if exists:
            raise ExportError(f"{path} exists already: pass overwrite=True (--overwrite) or another path")


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def replace_with(path: str | Path, write: Callable[[str], object]) -> Path:
    """Let ``write`` save to a temporary file of the same ending, then rename it to ``path``.

    Raises:
        ExportError: the folder cannot be created or written, or the disk is full; an existing file is untouched then.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(str(temporary))
        os.replace(temporary, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}; the disk or the folder's permissions") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path

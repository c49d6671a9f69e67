"""One run a folder: a second process that would write there is refused, and told which process is there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from qat.errors import ConfigError

from .atomic_files import make_folder


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold a folder for this process. The operating system frees it where the process dies.

    Raises:
        ConfigError: another process holds it; the message has its number.
        ExportError: the folder cannot be made, or not be written to.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    # filelock empties the file that it locks, so that the number stands in another.
    owner = folder / ".run.pid"
    try:
        with FileLock(folder / ".run.lock", timeout=0):
            owner.write_text(str(os.getpid()))
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
    except Timeout as error:
        with contextlib.suppress(OSError):
            raise ConfigError(
                f"another run writes into {folder} (process {owner.read_text()}): wait for its end, or choose another folder "
                "(--output)"
            ) from error
        raise ConfigError(f"another run writes into {folder}: wait for its end, or choose another folder (--output)") from error

"""Silence for tools that write to the process' standard error from C++, where Python's logging cannot reach."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what a third-party tool prints and logs; an exception passes through unharmed."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
        logging.disable(previous)

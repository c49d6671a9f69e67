"""Silence for third-party tools that print, warn and log on their way."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard the output, the warnings and the logs of a tool. An exception passes through unharmed.

    The standard error of the process itself is closed too: C++ writes there, where Python's logging cannot reach.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
        logging.disable(previous)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Hold the toolkit's own notices back, of work that was not asked for by name. An exception passes through unharmed."""
    log = logging.getLogger("qat")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)

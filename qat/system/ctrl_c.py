"""Ctrl-C at the command line, remembered.

``KeyboardInterrupt`` is raised wherever the program is at that moment. Inside an import that catches every exception, or in a
function that C++ calls, a library swallows it, or fails later because its work was cut off. This module remembers that Ctrl-C
was pressed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _CtrlC:
    asked = False
    deferred = False


def listen() -> None:
    """Remember from now on that Ctrl-C was pressed; ``KeyboardInterrupt`` is raised as before. For the main thread only."""
    signal.signal(signal.SIGINT, _note)


def _note(number: int, frame: FrameType | None) -> None:
    again, _CtrlC.asked = _CtrlC.asked, True
    if again or not _CtrlC.deferred:
        signal.default_int_handler(number, frame)


@contextmanager
def deferred() -> Iterator[None]:
    """Raise the first Ctrl-C's ``KeyboardInterrupt`` at the end: C++ modules that import one another abort on it."""
    _CtrlC.deferred = True
    try:
        yield
    finally:
        _CtrlC.deferred = False
    stop_if_asked()


def asked() -> bool:
    """Return whether Ctrl-C was pressed since :func:`listen`."""
    return _CtrlC.asked


def stop_if_asked() -> None:
    """Raise the ``KeyboardInterrupt`` that something swallowed. Called where a stage ends."""
    if _CtrlC.asked:
        raise KeyboardInterrupt

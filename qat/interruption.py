"""Ctrl-C at the command line, remembered.

``KeyboardInterrupt`` is raised wherever the program is at that moment. Inside an import that catches every exception, or in a
function that C++ calls, a library swallows it, or fails later of what it left half done. What was asked for is kept here.
"""

from __future__ import annotations

import signal
from types import FrameType


class _CtrlC:
    asked = False


def listen() -> None:
    """Remember from now on that Ctrl-C was pressed; ``KeyboardInterrupt`` is raised as before. For the main thread only."""
    signal.signal(signal.SIGINT, _note)


def _note(number: int, frame: FrameType | None) -> None:
    _CtrlC.asked = True
    signal.default_int_handler(number, frame)


def asked() -> bool:
    """Return whether Ctrl-C was pressed since :func:`listen`."""
    return _CtrlC.asked


def stop_if_asked() -> None:
    """Raise the ``KeyboardInterrupt`` that something swallowed. Called where a stage ends."""
    if _CtrlC.asked:
        raise KeyboardInterrupt

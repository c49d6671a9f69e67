"""An end to a step whose estimate was wrong: the time that is left is a limit, and not a hope."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from qat.errors import QatError

#: Seconds after which an exception that a library swallowed is raised again.
_AGAIN = 2.0
#: Seconds that a timer takes.
_LEAST, _MOST = 0.01, 1e8


class OutOfTime(QatError):
    """The time of a step is over."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise OutOfTime where the work within takes longer, as soon as Python runs again.

    Elsewhere than in the main thread, and on systems without interval timers, nothing is raised.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    handler, started = signal.signal(signal.SIGALRM, _raise), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, min(max(seconds, _LEAST), _MOST), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # another's timer, which goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), _LEAST), interval)


def _raise(number: int, frame: FrameType | None) -> None:
    raise OutOfTime("the time is over")

"""Ctrl-C and a scheduler's SIGTERM: the current step ends, a checkpoint is written, then the run stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from qat.errors import QatError
from qat.system import ctrl_c


class TrainingInterrupted(QatError):
    """Training was stopped by a signal; the message says how to go on. The command line exits with 130."""

    exit_code = 130


class Interrupts:
    """A context in which SIGINT and SIGTERM only set ``stop``; a second one acts as it did before.

    Elsewhere than in the main thread signals cannot be caught, and it does nothing.
    """

    def __init__(self) -> None:
        self.stop = ctrl_c.asked()  # before training, and swallowed
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

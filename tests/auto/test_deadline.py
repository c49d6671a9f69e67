"""A step that takes longer than its time is given up, whatever a library makes of the exception."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from qat.auto import deadline as module
from qat.auto.deadline import OutOfTime, deadline


def test_what_takes_longer_ends():
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), deadline(0.05):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) == handler


def test_what_is_quicker_goes_on():
    before = signal.setitimer(signal.ITIMER_REAL, 50, 7)
    try:
        for seconds in (30, float("inf")):
            with deadline(seconds):
                pass
        left, interval = signal.getitimer(signal.ITIMER_REAL)  # another's timer, that of the tests themselves for example
        assert 20 < left < 51 and interval == 7
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_an_exception_that_is_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(module, "_AGAIN", 0.05)

    def swallows():
        with contextlib.suppress(OutOfTime):
            time.sleep(60)
        time.sleep(60)

    with pytest.raises(OutOfTime), deadline(0.05):
        swallows()

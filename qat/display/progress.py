"""Progress of what takes longer than two seconds: a bar with an ETA on a terminal, in a pipe a plain line now and then.

All of it goes to the standard error. ``with shown(False)`` hides the progress of everything within. Bars may be nested. The work
itself only counts; a thread of the bar looks at the count once a second, so that a call which takes minutes still shows the time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any, TypeVar

from .stream import is_ascii

T = TypeVar("T")

#: What takes fewer seconds is over before anyone asks.
_DELAY = 2.0
#: The seconds after which a pipe gets the first line, and those between further ones.
_FIRST_LINE, _BETWEEN_LINES = 10.0, 30.0

_HIDDEN: ContextVar[bool] = ContextVar("progress hidden", default=False)
_OPEN: list[Bar] = []


class Bar:
    """The progress of one loop or call.

    Attributes:
        title: what is done.
        total: the number of steps; None where it is not known.
        done: how many are done.
        note: shown behind the bar: a loss, a name.
        still: whether the bar moves between the steps alone.
    """

    def __init__(self, title: str, total: int | None, done: int = 0) -> None:
        self.title, self.total, self.done, self.note = title, total, done, ""
        self._first, self._started = done, time.monotonic()
        self._next_line, self._next_look = _FIRST_LINE, _DELAY
        self._drawn: Any = None  # of tqdm, which has no types
        self._stream: IO[str] = sys.stderr
        self._has_cursor = False
        self.still = False

    def open(self, still: bool) -> None:
        """Find out where and how the bar is shown."""
        self._stream, self._has_cursor, self.still = _stream(), _has_cursor(), still

    def advance(self) -> None:
        """Count a step."""
        self.done += 1
        elapsed = time.monotonic() - self._started
        if self.still and elapsed >= self._next_look:
            self._next_look = elapsed + 1.0
            self.tick(elapsed)

    def tick(self, elapsed: float) -> None:
        """Show the bar as it is after so many seconds."""
        if self._has_cursor:
            self._draw(elapsed)
        elif elapsed >= self._next_line and _OPEN[-1:] == [self]:  # one line at a time: that of the innermost bar
            self._next_line = elapsed + _BETWEEN_LINES
            print(self.line(elapsed), file=self._stream, flush=True)

    def line(self, elapsed: float) -> str:
        """Return the progress as a line of text."""
        note = f" ({self.note})" if self.note else ""
        if self.total is None:
            counted = f" {self.done}," if self.done > self._first else ""
            return f"  {self.title}:{counted} {_time(elapsed)} so far{note}"
        made = self.done - self._first
        left = f", about {_time(elapsed * (self.total - self.done) / made)} left" if made else ""
        return f"  {self.title}: {self.done} of {self.total}, {_time(elapsed)} so far{left}{note}"

    def _draw(self, elapsed: float) -> None:
        from tqdm import tqdm

        if self._drawn is None:
            plain = "{desc}: {elapsed}{postfix}" if self.total is None else None
            self._drawn = tqdm(
                total=self.total, initial=self._first, file=self._stream, leave=False, dynamic_ncols=True, bar_format=plain,
                ascii=is_ascii(sys.stderr) or None, delay=_DELAY,  # not drawn before it has its title and its time
            )  # fmt: skip
            self._drawn.start_t, self._drawn.delay = self._drawn.start_t - elapsed, 0.0
        self._drawn.n = self.done
        self._drawn.set_description_str(self.title, refresh=False)
        self._drawn.set_postfix_str(self.note, refresh=False)
        self._drawn.refresh()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._drawn is not None:
            self._drawn.close()
        if self._stream is not sys.stderr:
            self._stream.close()

    def hide(self) -> None:
        """Take the bar off the terminal until it is shown again."""
        if self._drawn is not None:
            self._drawn.clear(nolock=True)

    def show(self) -> None:
        """Put the bar back."""
        if self._drawn is not None:
            self._drawn.refresh(nolock=True)

    def run_until(self, over: threading.Event) -> None:
        """Show the bar once a second, from two seconds on."""
        wait = _DELAY
        while not over.wait(wait):
            if not any(made.still for made in _OPEN):
                self.tick(time.monotonic() - self._started)
            wait = 1.0


@contextmanager
def shown(progress: bool) -> Iterator[None]:
    """Show the progress of what runs within, or hide it. What is hidden outside stays hidden."""
    before = _HIDDEN.set(_HIDDEN.get() or not progress)
    try:
        yield
    finally:
        _HIDDEN.reset(before)


@contextmanager
def bar(title: str, total: int | None = None, done: int = 0, still: bool = False) -> Iterator[Bar]:
    """Give a bar for the time of a loop or of a call.

    ``still`` keeps every thread still meanwhile, for work that is timed: the bar moves between its steps alone.
    """
    made = Bar(title, total, done)
    if _HIDDEN.get() or os.environ.get("RANK", "0") != "0":  # of many processes the first one speaks
        yield made
        return
    made.open(still)
    over = threading.Event()
    thread = threading.Thread(target=made.run_until, args=(over,), name="progress", daemon=True)
    _OPEN.append(made)
    if not still:
        thread.start()
    try:
        yield made
    finally:
        over.set()
        if not still:
            thread.join()
        _OPEN.remove(made)
        made.close()


def tracked(items: Iterable[T], title: str, total: int | None = None, still: bool = False) -> Iterator[T]:
    """Yield the items of a loop, and show how far it is. The total is that of ``items``, where they have one."""
    with bar(title, length(items) if total is None else total, still=still) as made:
        for item in items:
            yield item
            made.advance()


def length(items: object) -> int | None:
    """Return the length of an object; None where it has none, as a generator, or does not know it."""
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


@contextmanager
def paused() -> Iterator[None]:
    """Take the bars off the terminal while something else is written to it."""
    if not _OPEN or "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.get_lock():
        for made in _OPEN:
            made.hide()
        yield
        for made in _OPEN:
            made.show()


def _has_cursor() -> bool:
    """Return whether a line of the standard error can be written again: on a terminal, or in a notebook."""
    return (sys.stderr.isatty() and os.environ.get("TERM") != "dumb") or "ipykernel" in sys.modules


def _stream() -> IO[str]:
    """Return where bars go: the standard error, also while a tool's own output to it is discarded."""
    real = sys.__stderr__
    if real is None or sys.stderr is not real:
        return sys.stderr
    return os.fdopen(os.dup(2), "w", encoding=real.encoding, errors="backslashreplace")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

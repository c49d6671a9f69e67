"""The console of the command line, and pages on it."""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from .page import Page
from .progress import paused
from .stream import is_ascii, width_of

_STYLES = {
    "title": "italic", "head": "bold", "rule": "dim", "good": "bold green", "reference": "cyan", "bad": "red", "notice": "yellow",
}  # fmt: skip


class _Console(Console):
    """A console that takes the bars of progress away while it prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        with paused():
            super().print(*objects, **options)


def console_of(stream: IO[str] | None = None, *, quiet: bool = False) -> Console:
    """Return a console that writes what it is given: no markup, no emoji codes, and no line is broken or cut.

    Brackets and colons in a package's name, a path or a tensor's name are text. Lines are left to the terminal, which breaks
    them so that a command or a path is still copied whole.
    """
    return _Console(
        file=stream or sys.stdout, width=width_of(stream or sys.stdout), markup=False, emoji=False, highlight=False,
        soft_wrap=True, quiet=quiet,
    )  # fmt: skip


def show(page: Page, console: Console, width: int | None = None) -> None:
    """Print a page in a width, by default the console's; a pipe gets each row as one line, without colours."""
    for line in page.lines(width or width_of(console.file), is_ascii(console.file)):
        console.print(Text(line.text, style=_STYLES.get(line.style, "")), soft_wrap=True)

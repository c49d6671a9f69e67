"""The console that results and progress are printed on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TextIO

from qat.display.progress import paused

if TYPE_CHECKING:
    from rich.console import Console


class Notices(logging.StreamHandler[TextIO]):
    """Writes notices on the standard error, the bars of progress taken away meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a notice."""
        with paused():
            super().emit(record)


def console(*, progress: bool = False) -> Console:
    """Return a console for results, or for ``progress``, which -q hides."""
    from qat.display.terminal import console_of

    return console_of(quiet=progress and not logging.getLogger("qat").isEnabledFor(logging.WARNING))

"""The console that results and progress are printed on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, progress: bool = False) -> Console:
    """Return a console for results, or for ``progress``, which -q hides."""
    from qat.display.terminal import console_of

    return console_of(quiet=progress and not logging.getLogger("qat").isEnabledFor(logging.WARNING))

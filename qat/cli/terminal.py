"""The console that results and progress are printed on."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, progress: bool = False) -> Console:
    """Return a console for results, or for ``progress``, which -q hides."""
    from rich.console import Console

    # Without markup: "[torch]" in a package's name, a path or a tensor's name is text.
    return Console(
        width=None if sys.stdout.isatty() else 120,
        markup=False,
        quiet=progress and not logging.getLogger("qat").isEnabledFor(logging.WARNING),
    )

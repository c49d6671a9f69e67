"""The process of the command line: how an error and Ctrl-C end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def run(app: Callable[[], object]) -> None:
    """Run the command line; an error that a user can act on is one sentence and exit code 2, Ctrl-C one and 130."""
    from qat.errors import QatError
    from qat.system import ctrl_c

    ctrl_c.listen()
    try:
        app()
    except SystemExit as done:
        if done.code != 130:  # typer's code for Ctrl-C
            raise
        _interrupted()
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        if ctrl_c.asked() and code != 130:  # what a library makes of a swallowed KeyboardInterrupt
            _interrupted()
        if not isinstance(error, QatError) or "--debug" in sys.argv:
            raise
        print(f"{'interrupted' if code == 130 else 'error'}: {error}", file=sys.stderr)
        raise SystemExit(code) from None


def _interrupted() -> NoReturn:
    print(
        "interrupted: no file is half written; start the command again (--overwrite replaces those that are whole)",
        file=sys.stderr,
    )
    # Not by SystemExit: where KeyboardInterrupt passed through an exec() on its way, CPython ends by the signal instead (-2).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)

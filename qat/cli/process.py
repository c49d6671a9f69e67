"""The process of the command line: how an error and Ctrl-C end it."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import typer

from qat.display.stream import is_ascii

#: The errors of typer that say what is wrong with the arguments.
_USAGE = typer.BadParameter.__mro__[1:3]


def run(app: typer.Typer) -> None:
    """Run the command line; an error that a user can act on is one sentence and exit code 2, Ctrl-C one and 130."""
    from qat.errors import QatError
    from qat.system import ctrl_c

    ctrl_c.listen()
    _fit_letters()
    try:
        code = typer.main.get_command(app).main(prog_name="qat", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        _interrupted(app)
    except BrokenPipeError:  # `qat ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        if ctrl_c.asked() and code != 130:  # what a library makes of a swallowed KeyboardInterrupt
            _interrupted(app)
        if isinstance(error, _USAGE):
            raise SystemExit(_wrong_usage(error)) from None
        if not isinstance(error, QatError) or "--debug" in sys.argv:
            raise
        print(f"{'interrupted' if code == 130 else 'error'}: {error}", file=sys.stderr)
        raise SystemExit(code) from None
    if code == 130:  # typer's for Ctrl-C
        _interrupted(app)
    raise SystemExit(code or 0)


def _wrong_usage(error: Any) -> int:
    """Print what is wrong with the arguments in one sentence, or the help where there are none; return the exit code."""
    context = getattr(error, "ctx", None)
    command = "qat" if context is None else context.command_path
    message = error.format_message().strip().rstrip(".")
    if message.startswith("Usage:"):
        print(message)
    else:
        print(f"error: {message[:1].lower()}{message[1:]}; {command} --help lists what it takes", file=sys.stderr)
    return int(error.exit_code)


def _fit_letters() -> None:
    """Let no name break the output: where a stream cannot show a letter, its number is shown."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and is_ascii(stream):
            reconfigure(errors="backslashreplace")


def _interrupted(app: typer.Typer) -> NoReturn:
    print(f"interrupted: no file is half written; {_going_on(app)}", file=sys.stderr)
    # Not by SystemExit: where KeyboardInterrupt passed through an exec() on its way, CPython ends by the signal instead (-2).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def _going_on(app: typer.Typer) -> str:
    """Return how the command of this process goes on, by the options that it takes."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    command = next((commands[word] for word in sys.argv[1:] if word in commands), None)
    options = {name for parameter in getattr(command, "params", ()) for name in parameter.opts}
    if "--resume" in options:
        return "the same command with --resume goes on from what is whole"
    return "start the command again" + (" (--overwrite replaces those that are whole)" if "--overwrite" in options else "")

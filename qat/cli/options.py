"""The application, and the options that every command takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from qat.display.progress import shown

from .result import Result, emit, stdout_free
from .terminal import Notices

log = logging.getLogger("qat")

Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in <output>/checkpoints.")]
Config = Annotated[Path, typer.Argument(help="A run configuration: a YAML file, or a name that qat configs lists.")]
Output = Annotated[Path | None, typer.Option(help="Default: runs/<name>.")]
Recipe = Annotated[
    str | None, typer.Option(help="In the place of the configuration's: a name that qat recipes lists, or a YAML file.")
]

Data = Annotated[
    str | None,
    typer.Option(help="Inputs like the application's: a folder of images, an .npz or .npy, package.module:function, or random."),
]
Scale = Annotated[
    str | None, typer.Option(help="Of images: 0..1, -1..1, 0..255, imagenet or MEAN,STD; default: what the file's metadata say.")
]
Size = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of images, where a file leaves them free.")]
Samples = Annotated[int, typer.Option(help="The most samples that are read.")]


def size_of(text: str | None) -> tuple[int, int] | None:
    """Return the height and width of ``224x224``. Raises ConfigError where a text is written otherwise."""
    from qat.errors import ConfigError

    if text is None:
        return None
    height, by, width = text.lower().partition("x")
    if not (by and height.isdigit() and width.isdigit()):
        raise ConfigError(f"--size is HEIGHTxWIDTH, 224x224 for example, not '{text}'")
    return int(height), int(width)


def _print_version(asked: bool) -> None:
    if asked:
        from qat import __version__

        print(f"qat {__version__}")
        raise typer.Exit


Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, metavar="", help="Say more; -vv for debugging.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and results alone, without notices and progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document (docs/json.md), progress on stderr.")]
Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


def application(commands: Iterable[Callable[..., Result]]) -> typer.Typer:
    """Return the application of some commands, each with the common options."""
    # Plain help: without rich it comes at once, fits any terminal, and is copied as it stands.
    app = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help="Quantization-aware training.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.callback()(_options)
    for function in commands:
        # The whole first line: typer would cut it.
        app.command(short_help=(function.__doc__ or "").partition("\n")[0])(_with_common_options(function))
    return app


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Verbose = 0, quiet: Quiet = False, version: Version = False,
) -> None:  # fmt: skip
    """Train on the integer grid: the artifact equals the trained model, bit for bit."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(format="notice: %(message)s", level=logging.ERROR, handlers=[Notices()])
    log.setLevel(logging.WARNING)
    _set_level(verbose, quiet)


def _set_level(verbose: int = 0, quiet: bool = False) -> None:
    """Let the log say more or less; without an option it stays as it is."""
    if verbose:
        log.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    if quiet:
        log.setLevel(logging.ERROR)


def _common(verbose: Verbose = 0, quiet: Quiet = False, as_json: Json = False, version: Version = False) -> None:
    """The options that stand behind the name of every command."""


def _with_common_options(function: Callable[..., Result]) -> Callable[..., None]:
    """Return a command that takes the common options, and prints what the function returns."""
    shared = signature(_common, eval_str=True).parameters

    @wraps(function)
    def command(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in shared}
        _set_level(chosen["verbose"], chosen["quiet"])
        with stdout_free(chosen["as_json"]), shown(not chosen["quiet"] and log.isEnabledFor(logging.WARNING)):
            result = function(**values)
        emit(result, chosen["as_json"])
        if result.exit_code:
            raise typer.Exit(result.exit_code)

    own = signature(function, eval_str=True)
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*own.parameters.values(), *shared.values())]
    vars(command)["__signature__"] = own.replace(parameters=parameters, return_annotation=None)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command

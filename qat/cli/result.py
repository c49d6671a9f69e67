"""What a command gives back: a page for a person, and the same as JSON for a program."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qat.display.stream import is_ascii

if TYPE_CHECKING:
    from qat.display.page import Page


@dataclass(frozen=True)
class Result:
    """The result of a command.

    Attributes:
        document: everything that the page shows, JSON-ready; docs/json.md has the keys of each command.
        page: what a person sees.
        exit_code: of the process.
    """

    document: Mapping[str, object]
    page: Page
    exit_code: int = 0


def emit(result: Result, as_json: bool) -> None:
    """Print a result on the standard output."""
    if as_json:
        print(json.dumps(_plain(result.document), indent=2, ensure_ascii=is_ascii(sys.stdout)))
        return
    from qat.display.terminal import show

    from .terminal import console

    show(result.page, console())


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are none become null, NumPy's become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def stdout_free(wanted: bool) -> Iterator[None]:
    """Lead what a command and its libraries print to the standard error, so that one JSON document stands alone."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)  # C++ prints past Python's sys.stdout
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)

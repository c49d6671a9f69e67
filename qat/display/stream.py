"""What a stream can show: how many columns, and which letters."""

from __future__ import annotations

import os
import shutil
from typing import IO

#: The toolkit's own signs, in ASCII.
_SPELLED = str.maketrans({"Δ": "d", "–": "-", "─": "-", "×": "x", "≤": "<=", "≥": ">=", "…": "..."})


def width_of(stream: IO[str]) -> int | None:
    """Return a terminal's columns, or what COLUMNS says; None of a pipe, which takes lines of any length."""
    if os.environ.get("COLUMNS", "").isdecimal() and int(os.environ["COLUMNS"]) > 0:
        return int(os.environ["COLUMNS"])
    return shutil.get_terminal_size().columns if stream.isatty() else None


def is_ascii(stream: IO[str]) -> bool:
    """Return whether a stream shows ASCII alone: by its encoding, or because the locale was set to C."""
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    # Python turns LC_CTYPE from C to C.UTF-8; what the user said stands in the others.
    said_c = locale in ("C", "POSIX") or (locale == "C.UTF-8" and os.environ.get("LANG") in ("C", "POSIX"))
    return said_c or not (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


#: What moves the cursor, colours or ends a line: a file's names may hold any of it.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))} | {ord("\n"): " "}


def visible(text: str) -> str:
    """Return a text in one line, its control characters escaped."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def spelled(text: str) -> str:
    """Return a text with the toolkit's own signs in ASCII."""
    return text.translate(_SPELLED)

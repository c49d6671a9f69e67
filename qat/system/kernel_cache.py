"""Which kernels were measured to be the fastest, remembered in the user's cache.

There is a file for each processor, framework and number of threads: lines of JSON, the first of which names these. Lines are only
ever added, and of two lines for one question the first one counts. Hence processes that measure beside each other end with the
same answers, without a lock, and a line that was torn harms itself alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import machine
from .packages import DISTRIBUTION


@dataclass(frozen=True)
class Conditions:
    """What decides how long a kernel takes, besides the sizes of its tensors.

    Attributes:
        processor: its name.
        features: the instructions that it has.
        framework: the package of the kernels, its version, and the instructions that it was told to use.
        threads: of one kernel.
        version: of this toolkit, whose forms may change.
    """

    processor: str
    features: tuple[str, ...]
    framework: str
    threads: int
    version: str


@cache
def conditions(framework: str, threads: int) -> Conditions:
    """Return the conditions on this machine."""
    found = machine.processor()
    features = tuple(name for name, has in found.features.items() if has)
    return Conditions(found.name, features, framework, threads, version(DISTRIBUTION))


def answers(of: Conditions) -> dict[str, str]:
    """Return the remembered form of each question; none where nothing can be read."""
    return _read(_path(of))[1]


def remember(of: Conditions, question: str, form: str) -> str:
    """Remember a form, and return the one that counts: another process may have been faster.

    A cache that cannot be written is no error: each process measures for itself then.
    """
    path = _path(of)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each line has line breaks on both sides, and is written at once: a torn one spoils no other.
        lines = [] if path.exists() else [json.dumps(asdict(of)).encode()]
        lines.append(_start(question) + json.dumps(form).encode() + b"}")
        with open(path, "ab", buffering=0) as file:
            file.write(b"".join(b"\n" + line + b"\n" for line in lines))
    except OSError:
        return form
    _, first = _read(path, _start(question))
    return first.get(question, form)


@dataclass(frozen=True)
class Measured:
    """What was measured under certain conditions: the fastest form of each question."""

    conditions: Conditions
    forms: dict[str, str]


def remembered() -> tuple[Measured, ...]:
    """Return everything that the cache holds, of whatever conditions."""
    found = (_read(path) for path in sorted(_folder().glob("*.jsonl")))
    return tuple(Measured(of, forms) for of, forms in found if of is not None and forms)


def _folder() -> Path:
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("qat")) / "kernels"


def _path(of: Conditions) -> Path:
    digest = hashlib.sha256(json.dumps(asdict(of), sort_keys=True).encode()).hexdigest()
    return _folder() / f"{digest[:16]}.jsonl"


def _start(question: str) -> bytes:
    """Return what a question's line begins with, up to the form."""
    return f'{{"question": {json.dumps(question)}, "form": '.encode()


def _read(path: Path, start: bytes = b"{") -> tuple[Conditions | None, dict[str, str]]:
    """Return what a file says in the lines that begin so: the conditions, and the form of each question."""
    of: Conditions | None = None
    forms: dict[str, str] = {}
    for line in _lines(path, start):
        match line:
            case {"question": str(question), "form": str(form)}:
                forms.setdefault(question, form)
            case {"processor": str(name), "features": [*features], "framework": str(framework), "threads": int(threads),
                  "version": str(made_by)}:  # fmt: skip
                of = of or Conditions(name, tuple(map(str, features)), framework, threads, made_by)
    return of, forms


def _lines(path: Path, start: bytes) -> Iterator[Any]:
    try:
        raw = path.read_bytes()
    except OSError:
        return
    for line in raw.split(b"\n"):
        if line.startswith(start):
            with contextlib.suppress(ValueError):
                yield json.loads(line)

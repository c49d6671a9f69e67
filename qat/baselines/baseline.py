"""What a tool made of a float model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Baseline:
    """One file made by a tool, or the reason why there is none.

    Attributes:
        name: of the entry, ``onnxruntime_static_minmax``.
        tool, recipe: who made it and how.
        kind: ``ptq``, ``float`` or ``control``.
        path, bytes: the file; None and 0 where the tool failed.
        error: why the tool failed.
    """

    name: str
    framework: str
    tool: str
    recipe: str
    kind: str
    path: Path | None
    bytes: int = 0
    error: str | None = None
    parity: None = None


#: ``(name, tool, recipe, make)``; ``make()`` returns the file's bytes.
Maker = tuple[str, str, str, Callable[[], bytes]]

"""The figures of a comparison: an entry an artifact, and the report of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One artifact's figures; percentages for ``top1`` and ``agreement``, milliseconds at batch 1 on one thread for latency.

    ``delta`` is the difference to float in percentage points, ``delta_low`` the lower end of its 95 % interval;
    ``p_float`` and ``p_best_ptq`` are McNemar's p against the float model and the best int8 PTQ; ``drift`` is the mean change of
    the largest probability, ``sqnr`` in dB, ``mse`` the mean squared difference of the outputs, all against float; ``size_ratio``
    is float's bytes over this one's; ``metrics`` holds the caller's own.
    """

    name: str
    kind: str
    tool: str
    recipe: str
    path: Path | None
    bytes: int
    top1: float | None = None
    delta: float | None = None
    delta_low: float | None = None
    agreement: float | None = None
    p_float: float | None = None
    p_best_ptq: float | None = None
    drift: float | None = None
    mse: float | None = None
    sqnr: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None
    parity: Any = None
    size_ratio: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Report:
    """A comparison: its entries in the order given, and what follows from them.

    ``reference`` names the entry that the others are held against: the float one, or without any (``against_float`` is False)
    the first.
    """

    framework: str
    dataset: str
    n_eval: int
    entries: tuple[Entry, ...]
    decision: str
    reference: str = ""
    against_float: bool = True

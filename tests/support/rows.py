"""Rows of a table as a test's parameters, of which `make test` runs a part: its time is short, and neighbours fail together."""

from collections.abc import Iterable

import pytest

TARGETS = ("litert", "onnxruntime")


def every_second(rows: Iterable[object]) -> list[object]:
    """Return the rows; the second, the fourth and so on are slow."""
    return [pytest.param(row, marks=pytest.mark.slow) if i % 2 else row for i, row in enumerate(rows)]


def by_turns(rows: Iterable[object]) -> list[object]:
    """Return each row with each target; with one of the two, by turns, it is slow."""
    return [
        pytest.param(row, target, marks=pytest.mark.slow if (i + j) % 2 else ())
        for i, row in enumerate(rows)
        for j, target in enumerate(TARGETS)
    ]

"""Sizes that ``torch.export`` has captured as formulas of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qat.graph.graph import EXAMPLE_BATCH

#: Batches: what holds for all of these holds for any.
_BATCHES = (EXAMPLE_BATCH, 7, 64, 501)
#: Batches other than the examples', the last of which all numbers up to 16 divide.
_LARGER = (*_BATCHES[1:], 720720)


def for_batch(size: Any, batch: int, sizes: Mapping[Any, int]) -> int:
    """Return a captured size for a batch, and for the other free sizes by their symbols."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes.get(symbol, batch) for symbol in expression.free_symbols}))


def fixed_size(size: Any, sizes: Mapping[Any, int]) -> int | None:
    """Return a captured size that is the same for any batch; None for a free one.

    The batch of each input has a symbol of its own, and ``torch.export`` does not know that they are one size. A symbol that a
    guard of the capture made a number counts as free: the operators may compute what the user's code did not ask for.
    """
    if isinstance(size, int):
        return size
    symbols = size.node.expr.free_symbols
    if not symbols or any(symbol in sizes for symbol in symbols):
        return None
    found = {for_batch(size, batch, sizes) for batch in _BATCHES}
    return found.pop() if len(found) == 1 else None


def are_equal(sizes: Sequence[Any]) -> bool:
    """Whether captured sizes are one size for any batch."""
    return all(len({for_batch(size, batch, {}) for size in sizes}) == 1 for batch in _BATCHES)


def for_one_alone(size: Any) -> bool:
    """Whether an equation on which a capture rests holds for no batch but that of its examples.

    ``int(windows.shape[0] / 4)`` is a number in a run, and leaves such an equation, which torch.export does not solve.
    """
    node = size.node
    equations = [guard.expr for guard in node.shape_env.guards if guard.expr.is_Relational and guard.expr.rel_op == "=="]
    of_batch = [e for e in equations if e.free_symbols and e.free_symbols <= node.expr.free_symbols]
    return not all(any(_holds(equation, batch) for batch in _LARGER) for equation in of_batch)


def _holds(equation: Any, batch: int) -> bool:
    try:
        return bool(equation.subs(dict.fromkeys(equation.free_symbols, batch)))
    except ZeroDivisionError:  # the rest of a division by a quotient, which is 0 for a small batch
        return False

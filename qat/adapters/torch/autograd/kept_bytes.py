"""What the backward passes keep of integers: a byte for each, in one copy for all nodes that keep the same tensor.

The integers of a tensor lie within 255 of each other, so that bytes hold them exactly, in a quarter of the memory. The node that
writes a tensor mostly makes the copy while it rounds. The copy is an attribute of the tensor and goes with it: a node that keeps
the copy holds on to the bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import passes

_NAME = "_qat_bytes"


def keep(x: Tensor, first: int | None) -> Tensor:
    """Return the bytes of integers, of which ``first`` is that of 0; the tensor itself where that is None."""
    if first is None:
        return x
    if (noted := _noted(x)) is not None and noted[0] == first:
        return noted[1]
    found = passes.of(x).to_bytes(x, first)
    attach(x, first, found)
    return found


def restore(kept: Tensor, first: int | None) -> Tensor:
    """Return the tensor that :func:`keep` kept."""
    return kept if first is None else passes.of(kept).from_bytes(kept, first)


def attach(x: Tensor, first: int | None, found: Tensor | None) -> None:
    """Note the bytes of a tensor, if they are made."""
    if first is not None and found is not None and not torch.compiler.is_compiling():
        setattr(x, _NAME, (first, _changes(x), found))


def moved(x: Tensor, y: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``y``, which is ``move(x)``, a view: the bytes of ``x`` move along."""
    if (noted := _noted(x)) is not None:
        attach(y, noted[0], move(noted[1]))
    return y


def _noted(x: Tensor) -> tuple[int, Tensor] | None:
    """Return the first integer and the bytes that are noted, unless the tensor has changed since."""
    if torch.compiler.is_compiling() or (noted := getattr(x, _NAME, None)) is None:
        return None
    first, changes, found = noted
    return (first, found) if changes == _changes(x) else None


def _changes(x: Tensor) -> int:
    """Return how often a tensor was changed in place; nothing counts it in inference mode."""
    return 0 if x.is_inference() else x._version

"""What evaluation keeps from one batch to the next: what follows from parameters and scales alone.

PyTorch counts no change that is made through ``parameter.data`` or NumPy, as an average of weights is swapped in. So what is kept
is kept with a copy of the numbers that it follows from, and each batch compares them, which takes a tenth of computing it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qat.system.memory import equal_bytes

T = TypeVar("T")

#: From this many bytes on a comparison by C is faster than PyTorch's.
_LARGE = 2**14


class Kept:
    """Values by name, and the tensors that each of them follows from. A copy of it, and its pickled form, are empty."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[tuple[Tensor | None, ...], Any]] = {}

    def of(self, name: str, make: Callable[[], T], *sources: Tensor | None) -> T:
        """Return what ``make`` returned for the same sources; only the last ones are remembered."""
        found: T
        held = self.values.get(name)
        if held is not None and all(map(_same, held[0], sources)):
            found = held[1]
        else:
            found = make()
            self.values[name] = tuple(None if s is None else s.detach().clone() for s in sources), found
        return found

    def forget(self) -> None:
        """Free what is kept."""
        self.values.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()


def can_keep(module: nn.Module, *sources: Tensor | None) -> bool:
    """Return whether a pass may keep what follows from some tensors: one of evaluation, eager, without gradients, on the CPU.

    A comparison would wait for a GPU, and a pass that is captured would hold the kept numbers as constants.
    """
    return (
        not (module.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())
        and all(s is None or (type(s) in (Tensor, nn.Parameter) and s.device.type == "cpu") for s in sources)
    )  # fmt: skip


def _same(kept: Tensor | None, now: Tensor | None) -> bool:
    """Return whether two tensors have the same numbers, of the same type, in the same layout in memory."""
    if kept is None or now is None:
        return kept is now
    if kept.dtype is not now.dtype or kept.shape != now.shape or kept.stride() != now.stride():
        return False
    dense = now.is_contiguous() or now.is_contiguous(memory_format=torch.channels_last)
    if dense and now.nbytes >= _LARGE:
        return equal_bytes(kept.data_ptr(), now.data_ptr(), now.nbytes)
    return torch.equal(kept, now)

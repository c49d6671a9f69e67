"""The order of the operators in a file: each one after those whose results it reads."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from qat.errors import ExportError

Operator = TypeVar("Operator")
Tensor = TypeVar("Tensor", bound=Hashable)


def by_dependency(
    operators: Iterable[Operator],
    reads: Callable[[Operator], Iterable[Tensor]],
    writes: Callable[[Operator], Iterable[Tensor]],
    available: Iterable[Tensor],
) -> list[Operator]:
    """Return the operators sorted by dependency.

    The sort goes through the operators as often as it must, and each time takes all that can run. An operator of the float block
    therefore stands before the integer operators that wait for any part of the block. The order is part of the artifact's bytes;
    the sort of ``onnx_ir`` gives another one.

    Args:
        operators: in the order in which they were written.
        reads: gives the tensors that an operator reads.
        writes: gives the tensors that an operator writes.
        available: the tensors that no operator writes: inputs and constants.

    Raises:
        ExportError: an operator reads a tensor that does not exist, or operators wait for each other.
    """
    ready = set(available)
    ordered, blocked = run_all(operators, reads, writes, ready)
    if blocked:
        written = {tensor for operator in blocked for tensor in writes(operator)}
        missing = sorted({str(t) for operator in blocked for t in reads(operator) if t not in ready and t not in written})
        if missing:
            raise ExportError(f"the program reads values that nothing writes: {', '.join(missing[:3])}")
        raise ExportError("the operators of the program form a circle: report this with the output of `qat plan`")
    return ordered


def run_all(
    operators: Iterable[Operator],
    reads: Callable[[Operator], Iterable[Tensor]],
    writes: Callable[[Operator], Iterable[Tensor]],
    ready: set[Tensor],
) -> tuple[list[Operator], list[Operator]]:
    """Return the operators that can run, sorted by dependency, and those that cannot. ``ready`` gets the tensors that they write.

    Args:
        operators: in the order in which they were written.
        reads: gives the tensors that an operator reads.
        writes: gives the tensors that an operator writes.
        ready: the tensors that are there; changed in place.
    """
    ordered, waiting = [], list(operators)
    while waiting:
        blocked = []
        for operator in waiting:
            if ready.issuperset(reads(operator)):
                ready.update(writes(operator))
                ordered.append(operator)
            else:
                blocked.append(operator)
        if len(blocked) == len(waiting):
            break
        waiting = blocked
    return ordered, waiting

"""``prefer: speed`` of a recipe: which operators stay float because float is quicker, conversions included.

Each operator has a time in integers and in float, and each tensor that is written in one form and read in the other takes a
conversion, one for all that read it. The forms of the least sum are a minimum cut: :mod:`qat.planning.minimum_cut`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

from qat.errors import ConfigError
from qat.graph.graph import Graph, TensorSpec

from .minimum_cut import SINK, SOURCE, source_side
from .operator_costs import BORDER, COSTS, Work, cost_of, size_of, work_of
from .plan import PlannedOp
from .targets import TARGETS, Target

_NEVER = float("inf")


@dataclass(frozen=True)
class _Times:
    """Microseconds: of an operator in integers and in float."""

    integer: float
    real: float


@dataclass(frozen=True)
class _Border:
    """A float32 tensor: its writer (None: the model's input), its readers (None: the model's output), and its conversions."""

    writer: str | None
    readers: tuple[str | None, ...]
    into: float
    back: float


def quicker_in_float(planned: Sequence[PlannedOp], graph: Graph, target: Target) -> dict[str, str]:
    """Return why operators that have integer kernels should stay float, by name.

    Args:
        planned: the operators as they are without a preference.
        graph: that holds them.
        target: whose kernels have times in :data:`qat.planning.operator_costs.COSTS`.

    Raises:
        ConfigError: the times of the target's kernels are not known.
    """
    if target.name not in COSTS:
        known = ", ".join(name for name in TARGETS if name in COSTS)
        raise ConfigError(
            f"prefer: speed has no times of kernels for target '{target.name}': leave the key out, or take one of {known}"
        )
    free = {p.op.name: _times(p, graph, target) for p in planned if p.integer and p.op.inputs}
    borders = [*_borders(planned, graph, target)]
    quick = source_side(_edges(free, borders))
    chosen = {name for name in free if name in quick}
    reasons: dict[str, str] = {}
    for island in _islands([p for p in planned if p.op.name in chosen]):
        saved = _total(free, borders, chosen - island) - _total(free, borders, chosen)
        others = len(island) - 1
        what = f"this and {others} operator{'s' if others > 1 else ''} next to it take" if others else "it takes"
        reasons |= dict.fromkeys(island, f"prefer: speed: {what} {saved:.2g} us less in float, conversions included")
    return reasons


def _times(p: PlannedOp, graph: Graph, target: Target) -> _Times:
    """Return the times of an operator. A kind without a row takes no time in either form."""
    cost, work = cost_of(p, graph, target.name), work_of(p, graph)
    return _Times(0.0, 0.0) if cost is None else _Times(work.microseconds(cost.integer), work.microseconds(cost.real))


def _borders(planned: Sequence[PlannedOp], graph: Graph, target: Target) -> Iterator[_Border]:
    """Yield each tensor that may be converted: not a constant, which is held in the form that is read."""
    writers = {name: p.op.name for p in planned for name in p.op.outputs}
    constants = {name for p in planned if not p.op.inputs for name in p.op.outputs}
    readers: dict[str, list[str | None]] = {}
    for p in planned:
        for name in p.grid_inputs:
            readers.setdefault(name, []).append(p.op.name)
    for name in graph.outputs:
        readers.setdefault(name, []).append(None)
    cost = COSTS[target.name][BORDER]
    for name, found in readers.items():
        tensor = graph.tensors[name]
        if tensor.dtype == "float32" and name not in constants:
            work = Work(size_of(tensor), 0)
            turned = _turned(tensor, target)
            into, back = (turned + work.microseconds(rates) for rates in (cost.integer, cost.real))
            yield _Border(writers.get(name), tuple(found), into, back)


def _turned(tensor: TensorSpec, target: Target) -> float:
    """Return what it takes to bring a tensor from the layout of integer kernels into that of float ones, or back.

    ONNX Runtime holds images of integers with the channels last, and float ones with the channels in blocks.
    """
    if target.suffix != ".onnx" or len(tensor.shape) != 4:
        return 0.0
    return Work(2 * size_of(tensor), 0).microseconds(COSTS[target.name]["transpose"].integer)


def _edges(free: dict[str, _Times], borders: Sequence[_Border]) -> Iterator[tuple[Hashable, Hashable, float]]:
    """Yield the edges of the cut: float is on the source's side. A cut edge is a time that is spent."""
    for name, times in free.items():
        yield SOURCE, name, times.integer
        yield name, SINK, times.real

    def node(name: str | None) -> Hashable:
        return name if name in free else SOURCE

    for place, border in enumerate(borders):
        into, back = ("into", place), ("back", place)
        yield node(border.writer), into, border.into
        yield back, node(border.writer), border.back
        for reader in border.readers:
            yield into, node(reader), _NEVER
            yield node(reader), back, _NEVER


def _total(free: dict[str, _Times], borders: Sequence[_Border], chosen: Collection[str]) -> float:
    """Return the time of all operators that could be either, ``chosen`` in float, and of all conversions."""
    own = sum(times.real if name in chosen else times.integer for name, times in free.items())

    def real(name: str | None) -> bool:
        return name not in free or name in chosen

    between = 0.0
    for border in borders:
        forms = {real(reader) for reader in border.readers}
        if real(border.writer) and False in forms:
            between += border.into
        if not real(border.writer) and True in forms:
            between += border.back
    return own + between


def _islands(chosen: Sequence[PlannedOp]) -> list[set[str]]:
    """Return the names of operators that share tensors, island by island."""
    islands: list[tuple[set[str], set[str]]] = []
    for p in chosen:
        names, tensors = {p.op.name}, {*p.op.inputs, *p.op.outputs}
        apart = []
        for others, theirs in islands:
            if tensors.isdisjoint(theirs):
                apart.append((others, theirs))
            else:
                names, tensors = names | others, tensors | theirs
        islands = [*apart, (names, tensors)]
    return [names for names, _ in islands]

"""The cheapest way to divide nodes into two sides, by the greatest flow between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

#: The two ends, as nodes.
SOURCE, SINK = object(), object()
#: What is left of an edge below this counts as nothing: the rounding of sums.
_NOTHING = 1e-9


def source_side(edges: Iterable[tuple[Hashable, Hashable, float]]) -> set[Hashable]:
    """Return the nodes on the source's side of a cut whose edges, from that side to the other, have the least sum.

    Shortest paths are filled first (Edmonds and Karp 1972, "Theoretical Improvements in Algorithmic Efficiency for Network Flow
    Problems"). Of several such cuts the one with the fewest nodes on the source's side is returned.

    Args:
        edges: from, to and capacity, which may be infinite. Several edges between two nodes add up.

    Examples:
        >>> sorted(source_side([(SOURCE, "a", 2.0), ("a", "b", 1.0), ("b", SINK, 3.0)]) - {SOURCE})
        ['a']
    """
    left: dict[Hashable, dict[Hashable, float]] = {SOURCE: {}, SINK: {}}
    for start, end, capacity in edges:
        left.setdefault(end, {}).setdefault(start, 0.0)
        ways = left.setdefault(start, {})
        ways[end] = ways.get(end, 0.0) + capacity
    while True:
        came_from = _reached(left)
        if SINK not in came_from:
            return set(came_from)
        path = [(came_from[SINK], SINK)]
        while path[-1][0] is not SOURCE:
            path.append((came_from[path[-1][0]], path[-1][0]))
        flow = min(left[start][end] for start, end in path)
        for start, end in path:
            left[start][end] -= flow
            left[end][start] += flow


def _reached(left: dict[Hashable, dict[Hashable, float]]) -> dict[Hashable, Hashable]:
    """Return the nodes that the source still reaches, each with the node before it on a shortest path."""
    came_from: dict[Hashable, Hashable] = {SOURCE: SOURCE}
    waiting = deque([SOURCE])
    while waiting and SINK not in came_from:
        node = waiting.popleft()
        for end, capacity in left[node].items():
            if capacity > _NOTHING and end not in came_from:
                came_from[end] = node
                waiting.append(end)
    return came_from
